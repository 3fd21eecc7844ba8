// Drives a CudaDecoder by hand: one forward pass over the chunks of some sequences, all logits
// read back.
//
// Pages start out poisoned with NaN, as in DecoderHarness.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_CUDA_CUDA_DECODER_HARNESS_H_
#define PARALLAX_TESTS_ENGINE_CUDA_CUDA_DECODER_HARNESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/cuda_decoder.h"
#include "kernels/cuda/execution.h"
#include "tests/engine/models/decoder_harness.h"

namespace parallax::testing {

class CudaDecoderHarness {
 public:
  static constexpr int kMaxTokens = 1024;
  static constexpr int kMaxSequences = 64;
  static constexpr int kMaxContext = 512;

  /// Loads the checkpoint of `folder`; throws on failure.
  explicit CudaDecoderHarness(const std::string& folder);

  /// The next `count` tokens of each sequence; appends their logits. Sequences keep their place
  /// in the vector from call to call: it names their pages.
  void Step(std::vector<HarnessSequence>& sequences, int32_t count);

 private:
  ForwardBatch MakeBatch(const std::vector<HarnessSequence>& sequences, int32_t count) const;
  void ReadLogits(std::vector<HarnessSequence>& sequences, int32_t count);

  const ModelConfig config_;
  const kernels::cuda::DeviceProperties device_;
  kernels::cuda::OwnedStream stream_;
  SingleDeviceCommunicator communicator_;
  std::unique_ptr<const DeviceWeights> weights_;
  std::unique_ptr<CudaDecoder> decoder_;
  std::vector<kernels::cuda::DeviceBuffer> pages_;
  std::vector<kernels::cuda::PagedKvCache> caches_;
  kernels::cuda::DeviceBuffer block_;
  kernels::cuda::DeviceBuffer block_tables_;
  kernels::cuda::PinnedBuffer staging_;
  kernels::cuda::PinnedBuffer logits_;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_CUDA_CUDA_DECODER_HARNESS_H_
