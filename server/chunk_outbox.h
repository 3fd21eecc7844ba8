// ChunkOutbox: output of one stream that waits for its reader, bounded in bytes.
//
// Deltas of one choice coalesce: a reader who is slow gets fewer, larger chunks, never a
// growing queue of small ones. Chunks leave in the order in which their first delta came.
//
// Not counted against the bound, because no reader could have been fast enough for them
// (they are the engine's to bound, by the prompt's length): prompt log-probabilities, and
// the first delta of each choice, which carries the echo.
//
// Thread safety: none; the owning reactor's mutex guards it.
#ifndef PARALLAX_SERVER_CHUNK_OUTBOX_H_
#define PARALLAX_SERVER_CHUNK_OUTBOX_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/sampling_params.h"
#include "engine/token_sink.h"

namespace parallax::server {

/// What leaves the outbox at once: prompt log-probabilities, or else a delta.
struct OutputChunk {
  std::vector<PositionLogprobs> prompt_logprobs;
  OutputDelta delta;
};

class ChunkOutbox {
 public:
  /// A choice's waiting delta stops growing here: far below gRPC's 4 MiB default limit.
  static constexpr size_t kMaxChunkBytes = size_t{256} << 10;

  explicit ChunkOutbox(size_t max_bytes) : max_bytes_(max_bytes) {}

  void AddPromptLogprobs(std::vector<PositionLogprobs> positions);

  /// False if more than `max_bytes` would wait: then nothing is added, and the stream is to
  /// be ended.
  [[nodiscard]] bool Add(OutputDelta delta);

  /// The next chunk. REQUIRES: !empty().
  OutputChunk Take();

  void Clear();
  bool empty() const { return waiting_.empty() && prompt_logprobs_.empty(); }

 private:
  struct Waiting {
    OutputDelta delta;
    size_t bytes = 0;    // its size
    size_t counted = 0;  // of them, against the bound
  };

  Waiting* FindMergeable(int32_t choice, size_t bytes);
  std::vector<PositionLogprobs> TakePromptLogprobs();

  const size_t max_bytes_;
  std::vector<Waiting> waiting_;  // few: one a choice, more only when one is full
  size_t counted_bytes_ = 0;
  std::bitset<SamplingParams::kMaxChoices> started_;
  std::vector<PositionLogprobs> prompt_logprobs_;
  size_t prompt_logprobs_sent_ = 0;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CHUNK_OUTBOX_H_
