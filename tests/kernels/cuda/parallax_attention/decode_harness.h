// Runs attention problems through the GPU's decode op as one batch.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_

#include <cstddef>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cuda/parallax_decode.h"
#include "tests/kernels/cuda/parallax_attention/attention_batch.h"

namespace parallax::kernels::cuda {

class DecodeBatch {
 public:
  DecodeBatch(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng,
              const DeviceProperties& device = TunedDevice());

  // Runs the op and returns each problem's out. `stream` null: the default stream.
  std::vector<std::vector<float>> Run(cudaStream_t stream = nullptr);

  // The two halves of Run().
  void Enqueue(cudaStream_t stream);
  std::vector<std::vector<float>> ReadOut() const { return batch_.ReadOut(); }

  // Shortens sequences in device memory, as a replayed graph would see it.
  void SetContexts(const std::vector<int>& contexts) { batch_.SetContexts(contexts); }

  const ParallaxDecodeParams& params() const { return params_; }

 private:
  DeviceProperties device_;
  AttentionBatch batch_;
  ParallaxDecodeParams params_;
  std::optional<DeviceArray<std::byte>> workspace_;
};

// Of decode, over all outs of one batch.
double DecodeError(const std::vector<reference::AttentionProblem>& problems,
                   const DeviceProperties& device);

// Problems of the default model: a batch of single rows, and the last rows as those of one
// sequence. Errors stay below `tolerance` and three times softmax's on the same inputs.
void ExpectRightOnCapturedProblems(const DeviceProperties& device, double tolerance);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_
