// ChunkOutbox: output of one stream that waits for its reader, bounded in bytes.
//
// Deltas of one choice coalesce: a reader who is slow gets fewer, larger chunks, never a
// growing queue of small ones. Chunks leave in the order in which their first delta came.
//
// What a request tells of its prompt is not counted against the bound, because no reader could
// have been fast enough for it: request_builder bounds it, and all choices share it.
//
// Thread safety: none; the owning reactor's mutex guards it.
#ifndef PARALLAX_SERVER_CHUNK_OUTBOX_H_
#define PARALLAX_SERVER_CHUNK_OUTBOX_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax::server {

/// What leaves the outbox at once.
struct OutputChunk {
  std::optional<RequestStart> start = {};  // of the first chunk, before its delta
  OutputDelta delta = {};
};

class ChunkOutbox {
 public:
  /// `tokenizer` as in output_size.h.
  ChunkOutbox(size_t max_bytes, const Tokenizer* tokenizer)
      : max_bytes_(max_bytes), tokenizer_(tokenizer) {}

  /// Leaves with the first chunk.
  void Start(RequestStart start) { start_ = std::move(start); }

  /// False if more than `max_bytes` would wait: then nothing is added, and the stream is to
  /// be ended.
  [[nodiscard]] bool Add(OutputDelta delta);

  /// The next chunk. REQUIRES: !empty().
  OutputChunk Take();

  bool empty() const { return waiting_.empty(); }

 private:
  struct Waiting {
    OutputDelta delta;
    size_t bytes = 0;
  };

  Waiting* FindMergeable(int32_t choice, size_t bytes);

  size_t max_bytes_;
  const Tokenizer* tokenizer_;
  size_t bytes_ = 0;
  std::optional<RequestStart> start_;
  std::vector<Waiting> waiting_;  // few: one a choice, more only when one is full
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CHUNK_OUTBOX_H_
