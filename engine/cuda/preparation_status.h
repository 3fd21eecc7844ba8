// What an operator is told when the GPU backend cannot start.
//
// Thread safety: a pure function.
#ifndef PARALLAX_ENGINE_CUDA_PREPARATION_STATUS_H_
#define PARALLAX_ENGINE_CUDA_PREPARATION_STATUS_H_

#include "absl/status/status.h"
#include "kernels/check.h"

namespace parallax {

/// RESOURCE_EXHAUSTED with what to lower for want of memory, FAILED_PRECONDITION for a missing
/// library, else INTERNAL. `activity` is what failed, e.g. "loading weights".
absl::Status PreparationStatus(const char* activity, const kernels::KernelError& error);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_PREPARATION_STATUS_H_
