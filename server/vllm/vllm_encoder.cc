#include "server/vllm/vllm_encoder.h"

#include <cmath>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/output_size.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;

void FillTop(const PositionLogprobs& position, wire::TopLogProbs* top) {
  for (const TokenLogprob& token : position.top) {
    top->add_values(token.logprob);
    top->add_token_ids(static_cast<uint32_t>(token.token));
  }
}

void AppendOutput(std::span<const PositionLogprobs> positions, wire::OutputLogProbs* output) {
  for (const PositionLogprobs& position : positions) {
    output->add_token_logprobs(position.chosen.logprob);
    output->add_token_ids(static_cast<uint32_t>(position.chosen.token));
    FillTop(position, output->add_top_logprobs());
  }
}

void AppendInput(std::span<const PositionLogprobs> positions, wire::InputLogProbs* input) {
  for (const PositionLogprobs& position : positions) {
    wire::InputTokenLogProb* chosen = input->add_token_logprobs();
    if (!std::isnan(position.chosen.logprob)) chosen->set_value(position.chosen.logprob);
    input->add_token_ids(static_cast<uint32_t>(position.chosen.token));
    FillTop(position, input->add_top_logprobs());
  }
}

// Null for a choice that an error ended: the call's status says what happened.
const char* ReasonOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
      return "abort";
    case FinishReason::kError:
      break;
  }
  return nullptr;
}

void FillFinish(const ChoiceFinish& finish, wire::GenerateComplete* out) {
  out->set_finish_reason(ReasonOf(finish.reason));
  out->set_prompt_tokens(static_cast<uint32_t>(finish.prompt_tokens));
  out->set_cached_tokens(static_cast<uint32_t>(finish.cached_tokens));
  out->set_completion_tokens(static_cast<uint32_t>(finish.completion_tokens));
  if (finish.matched_stop_string.has_value()) {
    out->set_matched_stop_str(*finish.matched_stop_string);
  } else if (finish.matched_stop_token.has_value()) {
    out->set_matched_token_id(static_cast<uint32_t>(*finish.matched_stop_token));
  }
}

}  // namespace

VllmEncoder::VllmEncoder(const Request& request, bool stream, size_t max_response_bytes)
    : stream_(stream),
      max_response_bytes_(max_response_bytes),
      prompt_tokens_(static_cast<uint32_t>(request.prompt.size())),
      choices_(static_cast<size_t>(request.sampling.n)) {}

absl::Status VllmEncoder::Add(OutputChunk chunk) {
  if (chunk.start.has_value()) cached_tokens_ = static_cast<uint32_t>(chunk.start->cached_tokens);
  if (!stream_) {
    if (absl::Status s = Collect(chunk); !s.ok()) return s;
  } else if (chunk.start.has_value()) {
    prompt_ = PromptPieces(*std::move(chunk.start), static_cast<int32_t>(choices_.size()),
                           /*tokenizer=*/nullptr);
  }
  const bool ends = chunk.delta.finish.has_value() && ReasonOf(chunk.delta.finish->reason);
  // A delta may hold text alone, held back by a stop string that did not come: no news here.
  if (stream_ && !chunk.delta.token_ids.empty()) {
    chunk_ = std::move(chunk.delta);
  } else if (ends) {
    finish_ = std::move(chunk.delta);
  }
  return absl::OkStatus();
}

absl::Status VllmEncoder::Collect(const OutputChunk& chunk) {
  const OutputDelta& delta = chunk.delta;
  collected_bytes_ += DeltaBytes(delta, /*tokenizer=*/nullptr);
  // Every choice's complete has those of the prompt.
  if (chunk.start.has_value()) {
    collected_bytes_ += choices_.size() * PromptBytes(*chunk.start, 1, /*tokenizer=*/nullptr);
  }
  if (collected_bytes_ > max_response_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the reply would have more than ", max_response_bytes_, " bytes; set stream"));
  }
  if (chunk.start.has_value() && chunk.start->prompt_logprobs != nullptr) {
    AppendInput(*chunk.start->prompt_logprobs, &prompt_logprobs_);
  }
  wire::GenerateComplete& complete = choices_[static_cast<size_t>(delta.choice)].complete;
  complete.mutable_output_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  if (!delta.logprobs.empty()) AppendOutput(delta.logprobs, complete.mutable_output_logprobs());
  return absl::OkStatus();
}

bool VllmEncoder::Next(Message* message) {
  // Not message->Clear(), which frees the chunk that is there, and its ids' buffer with it.
  if (!prompt_.empty()) {
    WritePrompt(message->mutable_chunk());
  } else if (chunk_.has_value()) {
    WriteChunk(message->mutable_chunk());
  } else if (finish_.has_value()) {
    WriteComplete(message->mutable_complete());
  } else {
    return false;
  }
  return true;
}

void VllmEncoder::FillHead(int32_t choice, wire::GenerateStreamChunk* out) const {
  out->Clear();
  out->set_prompt_tokens(prompt_tokens_);
  out->set_completion_tokens(choices_[static_cast<size_t>(choice)].completion_tokens);
  out->set_cached_tokens(cached_tokens_);
  out->set_index(static_cast<uint32_t>(choice));
}

void VllmEncoder::WritePrompt(wire::GenerateStreamChunk* out) {
  FillHead(0, out);
  AppendInput(prompt_.Next().logprobs, out->mutable_input_logprobs());
  if (prompt_.empty()) prompt_ = PromptPieces();  // what it pointed into is free
}

void VllmEncoder::WriteChunk(wire::GenerateStreamChunk* out) {
  OutputDelta& delta = *chunk_;
  Choice& choice = choices_[static_cast<size_t>(delta.choice)];
  choice.completion_tokens += static_cast<uint32_t>(delta.token_ids.size());
  choice.complete.mutable_output_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  FillHead(delta.choice, out);
  out->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  if (!delta.logprobs.empty()) AppendOutput(delta.logprobs, out->mutable_output_logprobs());
  if (delta.finish.has_value() && ReasonOf(delta.finish->reason)) finish_ = std::move(delta);
  chunk_.reset();
}

void VllmEncoder::WriteComplete(wire::GenerateComplete* out) {
  out->Swap(&choices_[static_cast<size_t>(finish_->choice)].complete);
  if (!prompt_logprobs_.token_ids().empty()) *out->mutable_input_logprobs() = prompt_logprobs_;
  out->set_index(static_cast<uint32_t>(finish_->choice));
  FillFinish(*finish_->finish, out);
  finish_.reset();
}

void VllmEncoder::Clear() {
  prompt_ = PromptPieces();
  chunk_.reset();
  finish_.reset();
  prompt_logprobs_.Clear();
  choices_ = std::vector<Choice>(choices_.size());
}

}  // namespace parallax::server
