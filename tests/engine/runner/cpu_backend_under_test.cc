#include "tests/engine/runner/model_runner_fixture.h"

namespace parallax::testing {

BackendUnderTest Backend() {
  return {.device = RunnerDevice::kCpu,
          .checkpoint_dtype = "F32",
          .kv_cache_dtype = kernels::DType::kFloat32,
          .batch_invariant = true,
          .logprob_tolerance = 2e-3,
          .mass_tolerance = 1e-3};
}

}  // namespace parallax::testing
