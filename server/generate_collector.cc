#include "server/generate_collector.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/output_delta.h"
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
    : call_(std::move(call)),
      dispatch_queue_(call_.environment().dispatcher->AssignQueue()),
      response_(response),
      choices_(static_cast<size_t>(num_choices)) {
  call_.AnnounceId();
  for (int i = 0; i < num_choices; ++i) choices_[i].choice = i;
}

void GenerateCollector::OnStart(RequestStart start) {
  MutexLock lock(&mutex_);
  CountLocked(PromptBytes(start, choices_.size()));
  if (!overflow_.has_value()) start_ = std::move(start);
}

void GenerateCollector::OnDelta(OutputDelta delta) {
  MutexLock lock(&mutex_);
  if (delta.finish.has_value()) call_.NoteFinish(*delta.finish);
  if (!delta.token_ids.empty()) call_.NoteFirstToken();
  CountLocked(DeltaBytes(delta));
  if (overflow_.has_value()) return;
  OutputDelta& choice = choices_[delta.choice];
  MergeDelta(std::move(delta), &choice);
}

void GenerateCollector::CountLocked(size_t bytes) {
  bytes_ += bytes;
  if (overflow_.has_value() || bytes_ <= call_.environment().max_response_bytes) return;
  overflow_ = absl::ResourceExhaustedError(absl::StrCat("the reply would have more than ",
                                                        call_.environment().max_response_bytes,
                                                        " bytes; use GenerateStream"));
  call_.Cancel(*overflow_);
}

void GenerateCollector::OnDone(absl::Status status) {
  {
    MutexLock lock(&mutex_);
    done_ = overflow_.has_value() ? *overflow_ : std::move(status);
  }
  call_.environment().dispatcher->Dispatch(dispatch_queue_, shared_from_this());
}

void GenerateCollector::Write() {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    status = *done_;
    if (status.ok()) FillResponseLocked();
  }
  Finish(call_.End(status));
}

void GenerateCollector::FillResponseLocked() {
  response_->set_request_id(call_.request_id());
  response_->set_model(call_.environment().model.name);
  if (start_.prompt_logprobs != nullptr) {
    AppendLogprobs(*start_.prompt_logprobs, call_.environment().model.tokenizer,
                   response_->mutable_prompt_logprobs());
  }
  for (OutputDelta& choice : choices_) FillChoiceLocked(std::move(choice));
}

void GenerateCollector::FillChoiceLocked(OutputDelta choice) {
  const Tokenizer* const tokenizer = call_.environment().model.tokenizer;
  v1::Choice* wire = response_->add_choices();
  wire->set_index(choice.choice);
  if (const Echo* const echo = start_.echo.get()) {
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
  if (!done_.has_value()) call_.Cancel(call_.ClientGoneStatus());
}

void GenerateCollector::OnDone() {
  std::shared_ptr<GenerateCollector> self;  // freed after the lock is
  MutexLock lock(&mutex_);
  self = std::move(self_);
}

}  // namespace parallax::server
