// Runs attention problems through the GPU's prefill op as one batch.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_

#include <cstddef>
#include <random>
#include <vector>

#include "kernels/cuda/parallax_prefill.h"
#include "tests/kernels/cuda/parallax_attention/attention_batch.h"

namespace parallax::kernels::cuda {

class PrefillBatch {
 public:
  PrefillBatch(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  // Runs the op and returns each problem's out; what was not written is NaN.
  std::vector<std::vector<float>> Run(const DeviceProperties& device = TunedDevice());

  // The op alone, on a stream of the caller's.
  void Enqueue(const DeviceProperties& device, cudaStream_t stream);

  ParallaxPrefillParams& params() { return params_; }
  AttentionBatch& batch() { return batch_; }

 private:
  AttentionBatch batch_;
  DeviceArray<std::byte> workspace_;
  ParallaxPrefillParams params_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_
