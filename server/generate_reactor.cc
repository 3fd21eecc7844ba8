#include "server/generate_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace parallax::server {

GenerateReactor* GenerateReactor::Start(grpc::CallbackServerContext* context,
                                        const CallEnvironment* environment, Request request,
                                        Permit permit) {
  auto reactor =
      std::make_shared<GenerateReactor>(context, environment, request, std::move(permit));
  {
    MutexLock lock(&reactor->mutex_);
    reactor->self_ = reactor;
  }
  // Before Submit: afterwards the first write may already carry the metadata. Sent at once,
  // because a client that let the server name its request can only then abort it.
  reactor->StartSendInitialMetadata();
  const absl::Status submitted = environment->engine->Submit(std::move(request), reactor);
  if (!submitted.ok()) reactor->OnDone(submitted);
  return reactor.get();
}

GenerateReactor::GenerateReactor(grpc::CallbackServerContext* context,
                                 const CallEnvironment* environment, const Request& request,
                                 Permit permit)
    : call_(RpcMethod::kGenerateStream, context, environment, request, std::move(permit)),
      dispatch_queue_(environment->dispatcher->AssignQueue()),
      outbox_(environment->outbox_bytes, environment->model.tokenizer) {}

void GenerateReactor::OnStart(RequestStart start) {
  if (start.prompt_logprobs.empty()) return;
  MutexLock lock(&mutex_);
  if (discarding_) return;
  outbox_.AddPromptLogprobs(std::move(start.prompt_logprobs));
  DispatchLocked();
}

void GenerateReactor::OnDelta(OutputDelta delta) {
  MutexLock lock(&mutex_);
  if (discarding_) return;
  if (outbox_.Add(std::move(delta))) return DispatchLocked();
  overflow_ = absl::ResourceExhaustedError(absl::StrCat("the client reads too slowly: more than ",
                                                        call_.environment().outbox_bytes,
                                                        " bytes of output were waiting for it"));
  discarding_ = true;
  outbox_.Clear();
  call_.Cancel(*overflow_);
}

void GenerateReactor::OnDone(absl::Status status) {
  MutexLock lock(&mutex_);
  // The engine may have finished before it saw our cancellation; output is missing all the
  // same.
  done_ = overflow_.has_value() ? *overflow_ : std::move(status);
  DispatchLocked();
}

void GenerateReactor::DispatchLocked() {
  if (writing_ || dispatched_) return;  // OnWriteDone, or the queued Write, goes on
  dispatched_ = true;
  call_.environment().dispatcher->Dispatch(dispatch_queue_, shared_from_this());
}

void GenerateReactor::Write() {
  {
    MutexLock lock(&mutex_);
    dispatched_ = false;
  }
  WriteNext();
}

void GenerateReactor::WriteNext() {
  bool has_chunk = false;
  std::optional<absl::Status> end;
  {
    MutexLock lock(&mutex_);
    if (writing_ || finished_) return;
    has_chunk = !outbox_.empty();
    if (has_chunk) {
      outbox_.Take(&chunk_);
      if (std::exchange(first_chunk_, false)) chunk_.set_request_id(call_.request_id());
      writing_ = true;
    }
    if (outbox_.empty() && done_.has_value()) {
      end = *done_;
      finished_ = true;
    }
  }
  if (has_chunk && end.has_value()) {
    StartWriteAndFinish(&chunk_, grpc::WriteOptions(), call_.End(*end));
  } else if (has_chunk) {
    StartWrite(&chunk_);
  } else if (end.has_value()) {
    Finish(call_.End(*end));
  }
}

void GenerateReactor::OnWriteDone(bool ok) {
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) {  // the client is gone; OnCancel tells the engine
      discarding_ = true;
      outbox_.Clear();
    }
  }
  WriteNext();
}

void GenerateReactor::OnCancel() {
  MutexLock lock(&mutex_);
  discarding_ = true;
  outbox_.Clear();
  if (!done_.has_value()) call_.Cancel(call_.ClientGoneStatus());
}

void GenerateReactor::OnDone() {
  std::shared_ptr<GenerateReactor> self;  // freed after the lock is
  MutexLock lock(&mutex_);
  self = std::move(self_);
}

}  // namespace parallax::server
