#include "server/vllm/kv_event_stream.h"

#include <optional>

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
  DispatchLocked();
}

void KvEventStream::WriteNext() {
  std::optional<absl::Status> end;
  bool write = false;
  {
    MutexLock lock(&mutex_);
    if (writing_ || finished_) return;
    if (cancelled_) {
      end = absl::CancelledError("the subscriber went away");
    } else {
      const KvEventLog::ReadResult result = log_.Read(&next_, &batch_);
      if (result == KvEventLog::ReadResult::kNothing) return;
      if (result == KvEventLog::ReadResult::kClosed) {
        end = absl::UnavailableError("the server is shutting down");
      }
    }
    finished_ = end.has_value();
    write = writing_ = !finished_;
  }
  if (write) {
    StartWrite(&batch_);
  } else {
    Finish(ToGrpcStatus(*end));
  }
}

void KvEventStream::OnDone() {
  log_.RemoveListener(this);
  std::shared_ptr<KvEventStream> self;  // freed after the lock is
  MutexLock lock(&mutex_);
  self = std::move(self_);
}

}  // namespace parallax::server
