#include "engine/cuda/cuda_backend.h"

#include "engine/cuda/cuda_model_runner.h"
#include "kernels/check.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_properties.h"

namespace parallax {

bool CudaBackendUsable() {
  if (kernels::cuda::DeviceCount() == 0) return false;
  try {
    return kernels::cuda::ReadDeviceProperties(0).is_hopper();
  } catch (const kernels::KernelError&) {
    return false;  // an older GPU
  }
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaModelRunner(
    const ModelConfig& config, TensorSource& source, const CudaModelRunnerOptions& options) {
  auto runner = CudaModelRunner::Create(config, source, options);
  if (!runner.ok()) return runner.status();
  return std::unique_ptr<ModelRunner>(*std::move(runner));
}

}  // namespace parallax
