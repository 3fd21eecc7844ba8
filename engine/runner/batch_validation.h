// Whether a ForwardBatch keeps to its own contract and a backend's limits.
//
// A batch that does not is a bug above the backend; saying which field is wrong costs a few
// nanoseconds a row, and memory is never read or written out of bounds because of it.
//
// Thread safety: pure function. Errors: INTERNAL naming the step, the field and the value.
#ifndef PARALLAX_ENGINE_RUNNER_BATCH_VALIDATION_H_
#define PARALLAX_ENGINE_RUNNER_BATCH_VALIDATION_H_

#include "absl/status/status.h"
#include "engine/runner/forward_batch.h"
#include "engine/runner/model_runner.h"

namespace parallax {

/// Checks sizes, slots, row indices and pages. Token ids, context lengths and block tables are
/// left to the ops that use them.
absl::Status ValidateBatch(const ForwardBatch& batch, const RunnerLimits& limits);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_BATCH_VALIDATION_H_
