#include "server/response_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/time/time.h"

namespace parallax::server {
namespace {

v1::FinishReason ToWire(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kError:
      break;  // the call's status says what happened
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillTokenLogprob(const TokenLogprob& token, const Tokenizer* tokenizer,
                      v1::TokenLogprob* wire) {
  wire->set_token_id(token.token);
  if (!std::isnan(token.logprob)) wire->set_logprob(token.logprob);
  if (tokenizer == nullptr || !tokenizer->IsValidId(token.token)) return;
  const std::string_view bytes = tokenizer->TokenBytes(token.token);
  wire->set_token(bytes.data(), bytes.size());
}

}  // namespace

void AppendLogprobs(std::span<const PositionLogprobs> positions, const Tokenizer* tokenizer,
                    google::protobuf::RepeatedPtrField<v1::TokenLogprobs>* wire) {
  wire->Reserve(wire->size() + static_cast<int>(positions.size()));
  for (const PositionLogprobs& position : positions) {
    v1::TokenLogprobs* entry = wire->Add();
    FillTokenLogprob(position.chosen, tokenizer, entry->mutable_chosen());
    for (const TokenLogprob& token : position.top) {
      FillTokenLogprob(token, tokenizer, entry->add_top());
    }
  }
}

void FillFinish(const ChoiceFinish& finish, v1::Finish* wire) {
  wire->set_reason(ToWire(finish.reason));
  if (finish.matched_stop_string.has_value()) {
    wire->set_stop_string(*finish.matched_stop_string);
  } else if (finish.matched_stop_token.has_value()) {
    wire->set_stop_token_id(*finish.matched_stop_token);
  }
  v1::Usage* usage = wire->mutable_usage();
  usage->set_prompt_tokens(finish.prompt_tokens);
  usage->set_cached_tokens(finish.cached_tokens);
  usage->set_completion_tokens(finish.completion_tokens);
  v1::Timings* timings = wire->mutable_timings();
  timings->set_queue_us(absl::ToInt64Microseconds(finish.timings.queue));
  timings->set_prefill_us(absl::ToInt64Microseconds(finish.timings.prefill));
  timings->set_decode_us(absl::ToInt64Microseconds(finish.timings.decode));
}

void FillChunk(OutputDelta delta, const Tokenizer* tokenizer, v1::GenerateChunk* chunk) {
  chunk->set_index(delta.choice);
  if (!delta.text.empty()) chunk->set_text(std::move(delta.text));
  chunk->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  if (!delta.logprobs.empty()) {
    AppendLogprobs(delta.logprobs, tokenizer, chunk->mutable_logprobs());
  }
  if (delta.finish.has_value()) FillFinish(*delta.finish, chunk->mutable_finish());
}

void FillPromptPiece(const PromptPiece& piece, const Tokenizer* tokenizer,
                     v1::GenerateChunk* chunk) {
  if (!piece.choice.has_value()) {
    AppendLogprobs(piece.logprobs, tokenizer, chunk->mutable_prompt_logprobs());
    return;
  }
  chunk->set_index(*piece.choice);
  chunk->set_text(piece.text.data(), piece.text.size());
  chunk->mutable_token_ids()->Add(piece.token_ids.begin(), piece.token_ids.end());
  AppendLogprobs(piece.logprobs, tokenizer, chunk->mutable_logprobs());
}

void AddUsage(const v1::Usage& choice, v1::Usage* total) {
  total->set_prompt_tokens(choice.prompt_tokens());
  total->set_cached_tokens(choice.cached_tokens());
  total->set_completion_tokens(total->completion_tokens() + choice.completion_tokens());
}

void MergeSlowest(const v1::Timings& choice, v1::Timings* slowest) {
  slowest->set_queue_us(std::max(slowest->queue_us(), choice.queue_us()));
  slowest->set_prefill_us(std::max(slowest->prefill_us(), choice.prefill_us()));
  slowest->set_decode_us(std::max(slowest->decode_us(), choice.decode_us()));
}

}  // namespace parallax::server
