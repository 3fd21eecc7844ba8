#include "server/chunk_outbox.h"

#include <iterator>
#include <utility>

#include "server/output_delta.h"

namespace parallax::server {

void ChunkOutbox::AddPromptLogprobs(std::vector<PositionLogprobs> positions) {
  prompt_logprobs_ = std::move(positions);
}

ChunkOutbox::Waiting* ChunkOutbox::FindMergeable(int32_t choice, size_t bytes) {
  for (auto waiting = waiting_.rbegin(); waiting != waiting_.rend(); ++waiting) {
    if (waiting->delta.choice != choice) continue;
    return waiting->bytes + bytes <= kMaxChunkBytes ? &*waiting : nullptr;
  }
  return nullptr;
}

bool ChunkOutbox::Add(OutputDelta delta) {
  const auto choice = static_cast<size_t>(delta.choice);
  const size_t bytes = DeltaBytes(delta);
  const size_t counted = started_.test(choice) ? bytes : 0;
  if (counted_bytes_ + counted > max_bytes_) return false;
  started_.set(choice);
  counted_bytes_ += counted;
  if (Waiting* waiting = FindMergeable(delta.choice, bytes)) {
    MergeDelta(std::move(delta), &waiting->delta);
    waiting->bytes += bytes;
    waiting->counted += counted;
  } else {
    waiting_.push_back({std::move(delta), bytes, counted});
  }
  return true;
}

OutputChunk ChunkOutbox::Take() {
  OutputChunk chunk;
  if (!prompt_logprobs_.empty()) {
    chunk.prompt_logprobs = TakePromptLogprobs();
    return chunk;
  }
  counted_bytes_ -= waiting_.front().counted;
  chunk.delta = std::move(waiting_.front().delta);
  waiting_.erase(waiting_.begin());
  return chunk;
}

std::vector<PositionLogprobs> ChunkOutbox::TakePromptLogprobs() {
  const auto begin = prompt_logprobs_.begin() + static_cast<std::ptrdiff_t>(prompt_logprobs_sent_);
  auto end = begin;
  for (size_t bytes = 0; end != prompt_logprobs_.end() && bytes < kMaxChunkBytes; ++end) {
    bytes += LogprobsBytes(*end);
  }
  std::vector<PositionLogprobs> piece(std::make_move_iterator(begin), std::make_move_iterator(end));
  prompt_logprobs_sent_ += piece.size();
  if (end == prompt_logprobs_.end()) prompt_logprobs_ = {};
  return piece;
}

void ChunkOutbox::Clear() {
  waiting_.clear();
  counted_bytes_ = 0;
  prompt_logprobs_ = {};
}

}  // namespace parallax::server
