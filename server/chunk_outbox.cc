#include "server/chunk_outbox.h"

#include <utility>

#include "server/output_delta.h"
#include "server/output_size.h"

namespace parallax::server {

ChunkOutbox::Waiting* ChunkOutbox::FindMergeable(int32_t choice, size_t bytes) {
  for (auto waiting = waiting_.rbegin(); waiting != waiting_.rend(); ++waiting) {
    if (waiting->delta.choice != choice) continue;
    return waiting->bytes + bytes <= kMaxChunkBytes ? &*waiting : nullptr;
  }
  return nullptr;
}

bool ChunkOutbox::Add(OutputDelta delta) {
  const size_t bytes = DeltaBytes(delta, tokenizer_);
  if (bytes_ + bytes > max_bytes_) return false;
  bytes_ += bytes;
  if (Waiting* waiting = FindMergeable(delta.choice, bytes)) {
    MergeDelta(std::move(delta), &waiting->delta);
    waiting->bytes += bytes;
  } else {
    waiting_.push_back({std::move(delta), bytes});
  }
  return true;
}

OutputChunk ChunkOutbox::Take() {
  OutputChunk chunk{.start = std::exchange(start_, std::nullopt),
                    .delta = std::move(waiting_.front().delta)};
  bytes_ -= waiting_.front().bytes;
  waiting_.erase(waiting_.begin());
  return chunk;
}

}  // namespace parallax::server
