// A kernel that starts early, lets the next one start at once and then waits for the one before
// it, as a linear layer does: for tests of what a wait covers.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_EARLY_COPY_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_EARLY_COPY_H_

#include <cstdint>

#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// Copies `count` elements in device memory.
void EarlyCopy(const uint16_t* from, uint16_t* to, int64_t count, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_EARLY_COPY_H_
