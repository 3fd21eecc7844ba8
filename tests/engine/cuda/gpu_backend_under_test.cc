#include "tests/engine/runner/model_runner_fixture.h"

namespace parallax::testing {

BackendUnderTest Backend() {
  return {.device = RunnerDevice::kCuda,
          .checkpoint_dtype = "BF16",
          .kv_cache_dtype = kernels::DType::kBFloat16,
          .batch_invariant = false,
          .logprob_tolerance = 0.15,
          .mass_tolerance = 0.05};
}

}  // namespace parallax::testing
