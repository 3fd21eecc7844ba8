#include "server/vllm/vllm_encoder.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;
using PositionList = google::protobuf::RepeatedPtrField<v1::TokenLogprobs>;

void FillTop(const v1::TokenLogprobs& position, wire::TopLogProbs* top) {
  for (const v1::TokenLogprob& token : position.top()) {
    top->add_values(token.logprob());
    top->add_token_ids(static_cast<uint32_t>(token.token_id()));
  }
}

void AppendOutput(const PositionList& positions, wire::OutputLogProbs* output) {
  for (const v1::TokenLogprobs& position : positions) {
    output->add_token_logprobs(position.chosen().logprob());
    output->add_token_ids(static_cast<uint32_t>(position.chosen().token_id()));
    FillTop(position, output->add_top_logprobs());
  }
}

void AppendInput(const PositionList& positions, wire::InputLogProbs* input) {
  for (const v1::TokenLogprobs& position : positions) {
    wire::InputTokenLogProb* chosen = input->add_token_logprobs();
    if (position.chosen().has_logprob()) chosen->set_value(position.chosen().logprob());
    input->add_token_ids(static_cast<uint32_t>(position.chosen().token_id()));
    FillTop(position, input->add_top_logprobs());
  }
}

// Null for a choice that an error ended: the call's status says what happened.
const char* ReasonOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
    case v1::FINISH_REASON_DEADLINE:
      return "abort";
    default:
      return nullptr;
  }
}

}  // namespace

VllmEncoder::VllmEncoder(const Request& request, bool stream, size_t max_response_bytes)
    : stream_(stream),
      max_response_bytes_(max_response_bytes),
      prompt_tokens_(static_cast<uint32_t>(request.prompt.size())),
      choices_(static_cast<size_t>(request.sampling.n)) {}

void VllmEncoder::OnStart(const RequestStart& start) {
  cached_tokens_ = static_cast<uint32_t>(start.cached_tokens);
}

absl::Status VllmEncoder::Add(v1::GenerateChunk* chunk) {
  Choice& choice = choices_[static_cast<size_t>(chunk->index())];
  choice.completion_tokens += static_cast<uint32_t>(chunk->token_ids_size());
  choice.complete.mutable_output_ids()->Add(chunk->token_ids().begin(), chunk->token_ids().end());
  if (stream_) {
    AddStreamed(*chunk);
  } else if (absl::Status s = Collect(*chunk); !s.ok()) {
    return s;
  }
  if (chunk->has_finish()) Complete(chunk->index(), chunk->finish());
  return absl::OkStatus();
}

void VllmEncoder::AddStreamed(const v1::GenerateChunk& chunk) {
  // A delta may hold text alone, held back by a stop string that did not come: no news here.
  if (chunk.token_ids().empty() && chunk.prompt_logprobs().empty()) return;
  wire::GenerateStreamChunk& out = chunk_.emplace();
  out.mutable_token_ids()->Add(chunk.token_ids().begin(), chunk.token_ids().end());
  out.set_prompt_tokens(prompt_tokens_);
  out.set_completion_tokens(choices_[static_cast<size_t>(chunk.index())].completion_tokens);
  out.set_cached_tokens(cached_tokens_);
  out.set_index(static_cast<uint32_t>(chunk.index()));
  if (!chunk.logprobs().empty()) AppendOutput(chunk.logprobs(), out.mutable_output_logprobs());
  if (!chunk.prompt_logprobs().empty()) {
    AppendInput(chunk.prompt_logprobs(), out.mutable_input_logprobs());
  }
}

absl::Status VllmEncoder::Collect(const v1::GenerateChunk& chunk) {
  collected_bytes_ += chunk.ByteSizeLong();
  if (collected_bytes_ > max_response_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the reply would have more than ", max_response_bytes_, " bytes; set stream"));
  }
  AppendInput(chunk.prompt_logprobs(), &prompt_logprobs_);
  if (chunk.logprobs().empty()) return absl::OkStatus();
  wire::GenerateComplete& complete = choices_[static_cast<size_t>(chunk.index())].complete;
  AppendOutput(chunk.logprobs(), complete.mutable_output_logprobs());
  return absl::OkStatus();
}

void VllmEncoder::Complete(int32_t index, const v1::Finish& finish) {
  const char* reason = ReasonOf(finish.reason());
  if (reason == nullptr) return;
  complete_ = std::move(choices_[static_cast<size_t>(index)].complete);
  complete_->set_finish_reason(reason);
  complete_->set_index(static_cast<uint32_t>(index));
  complete_->set_prompt_tokens(static_cast<uint32_t>(finish.usage().prompt_tokens()));
  complete_->set_cached_tokens(static_cast<uint32_t>(finish.usage().cached_tokens()));
  complete_->set_completion_tokens(static_cast<uint32_t>(finish.usage().completion_tokens()));
  if (!prompt_logprobs_.token_ids().empty()) {
    *complete_->mutable_input_logprobs() = prompt_logprobs_;
  }
  if (finish.has_stop_string()) {
    complete_->set_matched_stop_str(finish.stop_string());
  } else if (finish.has_stop_token_id()) {
    complete_->set_matched_token_id(static_cast<uint32_t>(finish.stop_token_id()));
  }
}

bool VllmEncoder::Next(Message* message) {
  message->Clear();
  if (chunk_.has_value()) {
    message->mutable_chunk()->Swap(&*chunk_);
    chunk_.reset();
    return true;
  }
  if (complete_.has_value()) {
    message->mutable_complete()->Swap(&*complete_);
    complete_.reset();
    return true;
  }
  return false;
}

void VllmEncoder::Clear() {
  chunk_.reset();
  complete_.reset();
}

}  // namespace parallax::server
