#include "server/vllm/kv_event_stream.h"

#include <utility>

#include "server/status_mapping.h"

namespace parallax::server {

KvEventStream* KvEventStream::Start(const CallEnvironment* environment,
                                    uint64_t start_sequence_number) {
  auto stream = std::make_shared<KvEventStream>(environment, start_sequence_number);
  {
    MutexLock lock(&stream->mutex_);
    stream->self_ = stream;
  }
  const absl::Status added = stream->log_.AddListener(stream);
  MutexLock lock(&stream->mutex_);
  if (added.ok()) {
    stream->StartSendInitialMetadata();
    stream->DispatchLocked();
  } else {
    stream->finished_ = true;
    stream->Finish(ToGrpcStatus(added));
  }
  return stream.get();
}

KvEventStream::KvEventStream(const CallEnvironment* environment, uint64_t next)
    : environment_(*environment),
      log_(*environment->model.kv_events),
      dispatch_queue_(environment->dispatcher->AssignQueue()),
      next_(next) {}

void KvEventStream::OnKvEvents() {
  MutexLock lock(&mutex_);
  news_ = true;
  DispatchLocked();
}

void KvEventStream::DispatchLocked() {
  if (writing_ || dispatched_ || finished_) return;
  dispatched_ = true;
  environment_.dispatcher->Dispatch(dispatch_queue_, shared_from_this());
}

void KvEventStream::Write() {
  {
    MutexLock lock(&mutex_);
    dispatched_ = false;
  }
  WriteNext();
}

void KvEventStream::OnWriteDone(bool ok) {
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    cancelled_ = cancelled_ || !ok;
  }
  WriteNext();
}

void KvEventStream::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  news_ = true;
  DispatchLocked();
}

void KvEventStream::WriteNext() {
  if (!TakeTurn()) return;
  while (GoesOn(log_.Read(&next_, &batch_))) {
  }
}

bool KvEventStream::TakeTurn() {
  MutexLock lock(&mutex_);
  if (writing_ || finished_) return false;
  writing_ = true;
  news_ = false;
  return true;
}

// Writes what was read, ends the call, or gives up the turn; true: the log is to be read again.
bool KvEventStream::GoesOn(KvEventLog::ReadResult read) {
  std::optional<absl::Status> end;
  {
    MutexLock lock(&mutex_);
    end = EndAfterLocked(read);
    finished_ = end.has_value();
    if (!finished_ && read == KvEventLog::ReadResult::kNothing) {
      // What came after the look at the log was left to us.
      if (std::exchange(news_, false)) return true;
      writing_ = false;
      return false;
    }
  }
  if (end.has_value()) {
    Finish(ToGrpcStatus(*end));
  } else {
    StartWrite(&batch_);
  }
  return false;
}

std::optional<absl::Status> KvEventStream::EndAfterLocked(KvEventLog::ReadResult read) const {
  if (cancelled_) return absl::CancelledError("the subscriber went away");
  if (read == KvEventLog::ReadResult::kClosed) {
    return absl::UnavailableError("the server is shutting down");
  }
  return std::nullopt;
}

void KvEventStream::OnDone() {
  log_.RemoveListener(this);
  std::shared_ptr<KvEventStream> self;  // freed after the lock is
  MutexLock lock(&mutex_);
  self = std::move(self_);
}

}  // namespace parallax::server
