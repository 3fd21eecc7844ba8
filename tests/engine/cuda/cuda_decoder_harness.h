// Drives a CudaDecoder by hand: one forward pass over the chunks of some sequences, all logits
// read back; or several passes one right behind the other, with the logits of each chunk's end.
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

struct CudaHarnessOptions {
  int max_context = 512;
  bool overlap_attention = true;
  bool captured = false;  // every pass is computed once more, by a graph captured from it
};

class CudaDecoderHarness {
 public:
  static constexpr int kMaxTokens = 1024;
  static constexpr int kMaxSequences = 64;
  static constexpr int kMaxInFlight = 4;

  /// Loads the checkpoint of `folder`; throws on failure.
  explicit CudaDecoderHarness(const std::string& folder, const CudaHarnessOptions& options = {});

  /// The next `count` tokens of each sequence; appends their logits. Sequences keep their place
  /// in the vector from call to call: it names their pages.
  void Step(std::vector<HarnessSequence>& sequences, int32_t count);

  /// Enqueues a pass over the next counts[i] tokens of sequence i, of those with any, and does not
  /// wait for it. At most kMaxInFlight passes until Collect. Those of one token come first.
  void Launch(std::vector<HarnessSequence>& sequences, const std::vector<int32_t>& counts);
  /// Waits, and returns the logits of each launched chunk's last row, in order.
  std::vector<std::vector<float>> Collect();

 private:
  // A pass on its way: what the device still reads from and writes to.
  struct Flight {
    kernels::cuda::PinnedBuffer staging;
    kernels::cuda::PinnedBuffer tables;
    kernels::cuda::PinnedBuffer logits;
    kernels::cuda::Graph graph;
    int logits_rows = 0;
  };

  int pages_per_sequence() const { return options_.max_context / kPageTokens; }
  ForwardBatch MakeBatch(const std::vector<HarnessSequence>& sequences,
                         const std::vector<int32_t>& counts) const;
  void Forward(const ForwardBatch& batch, Flight& flight);
  void EnqueueLayers(const StepShape& shape);
  void ReadLogits(std::vector<HarnessSequence>& sequences, int32_t count);

  const CudaHarnessOptions options_;
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
  std::vector<Flight> flights_;
  size_t in_flight_ = 0;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_CUDA_CUDA_DECODER_HARNESS_H_
