#include "server/chunk_outbox.h"

#include <span>
#include <utility>

#include "server/output_delta.h"
#include "server/response_builder.h"

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

void ChunkOutbox::Take(v1::GenerateChunk* chunk) {
  chunk->Clear();
  if (!prompt_logprobs_.empty()) return TakePromptLogprobs(chunk);
  Waiting& first = waiting_.front();
  counted_bytes_ -= first.counted;
  FillChunk(std::move(first.delta), tokenizer_, chunk);
  waiting_.erase(waiting_.begin());
}

void ChunkOutbox::TakePromptLogprobs(v1::GenerateChunk* chunk) {
  const std::span<const PositionLogprobs> rest =
      std::span(prompt_logprobs_).subspan(prompt_logprobs_sent_);
  size_t count = 0;
  for (size_t bytes = 0; count < rest.size() && bytes < kMaxChunkBytes; ++count) {
    bytes += LogprobsBytes(rest[count]);
  }
  AppendLogprobs(rest.first(count), tokenizer_, chunk->mutable_prompt_logprobs());
  prompt_logprobs_sent_ += count;
  if (prompt_logprobs_sent_ == prompt_logprobs_.size()) prompt_logprobs_ = {};
}

void ChunkOutbox::Clear() {
  waiting_.clear();
  counted_bytes_ = 0;
  prompt_logprobs_ = {};
}

}  // namespace parallax::server
