#include "server/generate_collector.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/output_delta.h"
#include "server/output_size.h"
#include "server/response_builder.h"

namespace parallax::server {

GenerateCollector* GenerateCollector::Start(GenerateCall call, Request request,
                                            v1::GenerateResponse* response) {
  const CallEnvironment& environment = call.environment();
  auto collector =
      std::make_shared<GenerateCollector>(std::move(call), request.sampling.n, response);
  {
    MutexLock lock(&collector->mutex_);
    collector->self_ = collector;
  }
  const absl::Status submitted = environment.engine->Submit(std::move(request), collector);
  if (!submitted.ok()) collector->OnDone(submitted);
  return collector.get();
}

GenerateCollector::GenerateCollector(GenerateCall call, int num_choices,
                                     v1::GenerateResponse* response)
    : call_(std::move(call)), response_(response) {
  MutexLock lock(&mutex_);
  output_.choices.resize(static_cast<size_t>(num_choices));
  call_.Open();
  call_.AnnounceId();
  for (int i = 0; i < num_choices; ++i) output_.choices[static_cast<size_t>(i)].choice = i;
}

void GenerateCollector::OnStart(RequestStart start) {
  MutexLock lock(&mutex_);
  CountLocked(PromptBytes(start, output_.choices.size(), call_.environment().model.tokenizer));
  if (!overflow_.has_value()) output_.start = std::move(start);
}

void GenerateCollector::OnDelta(OutputDelta delta) {
  MutexLock lock(&mutex_);
  if (delta.finish.has_value()) call_.NoteFinish(*delta.finish);
  if (!delta.token_ids.empty()) call_.NoteFirstToken();
  CountLocked(DeltaBytes(delta, call_.environment().model.tokenizer));
  if (overflow_.has_value()) return;
  OutputDelta& choice = output_.choices[static_cast<size_t>(delta.choice)];
  MergeDelta(std::move(delta), &choice);
}

void GenerateCollector::CountLocked(size_t bytes) {
  bytes_ += bytes;
  if (overflow_.has_value() || bytes_ <= call_.environment().limits.max_response_bytes) return;
  overflow_ = absl::ResourceExhaustedError(
      absl::StrCat("the reply would have more than ", call_.environment().limits.max_response_bytes,
                   " bytes; use GenerateStream"));
  call_.Cancel(*this, *overflow_);
}

void GenerateCollector::OnDone(absl::Status status) {
  const CallEnvironment& environment = call_.environment();
  WriteDispatcher* dispatcher = environment.dispatcher;
  {
    MutexLock lock(&mutex_);
    done_ = overflow_.has_value() ? *overflow_ : std::move(status);
    if (bytes_ > GenerateCall::kSmallAnswerBytes) dispatcher = environment.reply_dispatcher;
  }
  dispatcher->Dispatch(dispatcher->AssignQueue(), shared_from_this());
}

void GenerateCollector::Write() {
  absl::Status status;
  Output output;
  size_t bytes = 0;
  {
    MutexLock lock(&mutex_);
    status = *done_;
    output = std::move(output_);
    bytes = bytes_;
  }
  if (status.ok()) FillResponse(std::move(output));
  call_.AwaitReader();
  Finish(call_.End(status, status.ok() ? bytes : 0));
}

void GenerateCollector::FillResponse(Output output) {
  response_->set_request_id(call_.request_id());
  response_->set_model(call_.environment().model.name);
  if (output.start.prompt_logprobs != nullptr) {
    AppendLogprobs(*output.start.prompt_logprobs, call_.environment().model.tokenizer,
                   response_->mutable_prompt_logprobs());
  }
  for (OutputDelta& choice : output.choices) {
    FillChoice(output.start.echo.get(), std::move(choice), response_->add_choices());
  }
}

void GenerateCollector::FillChoice(const Echo* echo, OutputDelta choice, v1::Choice* wire) {
  const Tokenizer* const tokenizer = call_.environment().model.tokenizer;
  wire->set_index(choice.choice);
  if (echo != nullptr) {
    wire->set_text(echo->text);
    wire->mutable_token_ids()->Add(echo->token_ids.begin(), echo->token_ids.end());
    if (echo->logprobs != nullptr) {
      AppendLogprobs(*echo->logprobs, tokenizer, wire->mutable_logprobs());
    }
  }
  wire->mutable_text()->append(choice.text);
  wire->mutable_token_ids()->Add(choice.token_ids.begin(), choice.token_ids.end());
  AppendLogprobs(choice.logprobs, tokenizer, wire->mutable_logprobs());
  if (!choice.finish.has_value()) return;
  FillFinish(*choice.finish, wire->mutable_finish());
  AddUsage(wire->finish().usage(), response_->mutable_usage());
  MergeSlowest(wire->finish().timings(), response_->mutable_timings());
}

void GenerateCollector::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  if (!done_.has_value()) call_.Cancel(*this, call_.ClientGoneStatus());
}

void GenerateCollector::OnDone() {
  std::shared_ptr<GenerateCollector> self;
  bool cancelled;
  {
    MutexLock lock(&mutex_);
    self = std::move(self_);
    cancelled = cancelled_;
  }
  call_.Close(cancelled);
}

}  // namespace parallax::server
