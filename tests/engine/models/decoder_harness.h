// Drives a Decoder by hand: sequences, chunks and pages chosen by the test.
//
// Every page starts out poisoned with NaN, and pages are handed out in random order, so that a
// read of a slot that was never written, or a dependence on page numbers, cannot go unnoticed.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_MODELS_DECODER_HARNESS_H_
#define PARALLAX_TESTS_ENGINE_MODELS_DECODER_HARNESS_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/models/decoder.h"
#include "kernels/cpu/thread_pool.h"

namespace parallax::testing {

struct HarnessOptions {
  kernels::DType kv_dtype = kernels::DType::kFloat32;
  int threads = 2;
  int32_t max_num_batched_tokens = 512;
  int32_t max_context_tokens = 512;
  int32_t num_pages = 64;
  uint64_t seed = 1;  // of the page order
  /// Sees the output of every block, and outlives the harness; null: one that does nothing.
  Communicator* communicator = nullptr;
};

/// One sequence and the logits of every position computed so far.
struct HarnessSequence {
  std::vector<int32_t> tokens;
  int32_t computed = 0;
  std::vector<int32_t> pages = {};
  std::vector<std::vector<float>> logits = {};  // [computed][vocab]
};

class DecoderHarness {
 public:
  /// Loads the checkpoint of `folder`; throws on failure.
  DecoderHarness(const std::string& folder, const HarnessOptions& options);

  const ModelConfig& config() const { return config_; }
  const DecoderWeights& weights() const { return *weights_; }
  const kernels::Stream& stream() const { return stream_; }

  /// One forward pass: for each pair, the next `count` tokens of a sequence.
  void Step(const std::vector<std::pair<HarnessSequence*, int32_t>>& chunks);
  /// Computes one sequence to its end, in chunks of at most `chunk` tokens.
  void Run(HarnessSequence& sequence, int32_t chunk);

 private:
  void AppendChunk(HarnessSequence& sequence, int32_t count, ForwardBatch& batch);
  void ReadLogits(HarnessSequence& sequence, int32_t first_row, int32_t count);

  HarnessOptions options_;
  ModelConfig config_;
  kernels::ThreadPool pool_;
  kernels::Stream stream_;
  std::unique_ptr<const DecoderWeights> weights_;
  SingleDeviceCommunicator silent_communicator_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<HostBuffer> cache_memory_;
  std::vector<kernels::KvCacheView> caches_;
  std::vector<int32_t> free_pages_;
};

/// Random token ids below `vocab`.
std::vector<int32_t> RandomTokens(std::mt19937_64& random, int count, int vocab);

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_MODELS_DECODER_HARNESS_H_
