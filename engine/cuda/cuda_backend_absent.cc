// Compiled instead of cuda_backend.cc where there is no CUDA compiler.
#include "engine/cuda/cuda_backend.h"

namespace parallax {

bool CudaBackendUsable() { return false; }

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaModelRunner(
    const ModelConfig& config, TensorSource& source, const CudaModelRunnerOptions& options) {
  return absl::UnimplementedError("this server was built without CUDA");
}

}  // namespace parallax
