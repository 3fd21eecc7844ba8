#include "tests/kernels/cuda/parallax_attention/prefill_harness.h"

namespace parallax::kernels::cuda {

PrefillBatch::PrefillBatch(const std::vector<reference::AttentionProblem>& problems,
                           std::mt19937& rng)
    : batch_(problems, rng), workspace_(ParallaxPrefillWorkspaceBytes()) {
  batch_.Describe(params_);
  // The rest stays as poisoned as the array was made.
  Require(cudaMemset(workspace_.data(), 0, ParallaxPrefillCounterBytes()));
  params_.workspace = {workspace_.data(), workspace_.size()};
}

void PrefillBatch::Enqueue(const DeviceProperties& device, cudaStream_t stream) {
  ParallaxPrefill(params_, device, Stream(0, stream));
}

std::vector<std::vector<float>> PrefillBatch::Run(const DeviceProperties& device) {
  batch_.PoisonOut();
  Enqueue(device, nullptr);
  return batch_.ReadOut();
}

}  // namespace parallax::kernels::cuda
