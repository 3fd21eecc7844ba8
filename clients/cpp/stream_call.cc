#include "clients/cpp/stream_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <utility>

#include "clients/cpp/channel.h"

namespace parallax::client {
namespace {

std::chrono::system_clock::time_point DeadlineOf(const CallOptions& options) {
  if (!options.timeout) return std::chrono::system_clock::time_point::max();
  return std::chrono::system_clock::now() + *options.timeout;
}

}  // namespace

// One try. Deletes itself when gRPC is done with it.
class StreamCall::Attempt final : public grpc::ClientReadReactor<v1::GenerateChunk> {
 public:
  explicit Attempt(std::shared_ptr<StreamCall> call) : call_(std::move(call)) {
    if (call_->deadline_ != std::chrono::system_clock::time_point::max()) {
      context_.set_deadline(call_->deadline_);
    }
    AddToken(call_->token_, &context_);
    AddMetadata(call_->metadata_, &context_);
  }

  void Start() {
    call_->stub_->async()->GenerateStream(&context_, &call_->request_, this);
    StartRead(&chunk_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // the stream has ended: OnDone follows
    call_->OnChunk(chunk_);
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<StreamCall> call = call_;
    const auto retry_after = call->OnAttemptEnded(status, context_);
    // The context holds the channel, which must not die on one of gRPC's own threads: give
    // it up before the owner of the client learns that the call has ended.
    delete this;
    call->FinishOrRetry(status, retry_after);
  }

 private:
  const std::shared_ptr<StreamCall> call_;
  grpc::ClientContext context_;
  v1::GenerateChunk chunk_;
};

std::shared_ptr<StreamCall> StreamCall::Start(v1::InferenceService::Stub* stub, std::string token,
                                              v1::GenerateRequest request,
                                              const CallOptions& options,
                                              StreamCallbacks callbacks) {
  std::shared_ptr<StreamCall> call(
      new StreamCall(stub, std::move(token), std::move(request), options, std::move(callbacks)));
  call->StartAttempt();
  return call;
}

StreamCall::StreamCall(v1::InferenceService::Stub* stub, std::string token,
                       v1::GenerateRequest request, const CallOptions& options,
                       StreamCallbacks callbacks)
    : stub_(stub),
      token_(std::move(token)),
      metadata_(options.metadata),
      request_(std::move(request)),
      callbacks_(std::move(callbacks)),
      deadline_(DeadlineOf(options)),
      backoff_(options.retry) {}

void StreamCall::StartAttempt() {
  auto* const attempt = new Attempt(shared_from_this());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    attempt_ = attempt;
    // A context cancelled before its call starts makes the call fail with CANCELLED.
    if (cancelled_) attempt->Cancel();
  }
  attempt->Start();
}

void StreamCall::OnChunk(const v1::GenerateChunk& chunk) {
  delivered_chunk_ = true;
  if (callbacks_.on_chunk) callbacks_.on_chunk(chunk);
}

std::optional<std::chrono::milliseconds> StreamCall::OnAttemptEnded(
    const grpc::Status& status, const grpc::ClientContext& context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  attempt_ = nullptr;
  if (delivered_chunk_) return std::nullopt;
  const auto wait = backoff_.Next(status, context);
  if (!wait || std::chrono::system_clock::now() + *wait > deadline_) return std::nullopt;
  return wait;
}

void StreamCall::FinishOrRetry(const grpc::Status& status,
                               std::optional<std::chrono::milliseconds> retry_after) {
  if (!retry_after) {
    Finish(status);
  } else if (!ScheduleRetry(*retry_after)) {
    Finish({grpc::StatusCode::CANCELLED, "cancelled"});
  }
}

bool StreamCall::ScheduleRetry(std::chrono::milliseconds wait) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_) return false;
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(std::chrono::system_clock::now() + wait,
              [self = shared_from_this()](bool elapsed) { self->OnAlarm(elapsed); });
  return true;
}

void StreamCall::OnAlarm(bool elapsed) {
  {
    // The alarm's callback holds a reference to this, and this holds the alarm.
    const std::lock_guard<std::mutex> lock(mutex_);
    alarm_.reset();
  }
  if (elapsed) {
    StartAttempt();
  } else {
    Finish({grpc::StatusCode::CANCELLED, "cancelled"});
  }
}

void StreamCall::Finish(const grpc::Status& status) {
  if (callbacks_.on_done) callbacks_.on_done(status);
  const std::lock_guard<std::mutex> lock(mutex_);
  status_ = status;
  done_ = true;
  changed_.notify_all();
}

void StreamCall::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (attempt_ != nullptr) attempt_->Cancel();
  if (alarm_ != nullptr) alarm_->Cancel();
}

grpc::Status StreamCall::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return done_; });
  return status_;
}

}  // namespace parallax::client
