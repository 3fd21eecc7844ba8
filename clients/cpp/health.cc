#include "clients/cpp/health.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "clients/cpp/channel.h"
#include "clients/cpp/unary_call.h"

namespace parallax::client {
namespace {

// HealthCheckRequest { string service = 1; } and HealthCheckResponse { ServingStatus status
// = 1; } have the wire form of these well-known types. Generating the protocol's own
// messages here would clash with a program that links them too.
using HealthRequest = google::protobuf::StringValue;
using HealthResponse = google::protobuf::Int32Value;
using HealthStub = grpc::TemplatedGenericStub<HealthRequest, HealthResponse>;

// A status handed from one of gRPC's threads to the thread that waits for it. The lock is
// held while notifying, so that the waiting thread may destroy this at once.
class PendingStatus {
 public:
  void Set(grpc::Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    status_ = std::move(status);
    set_.notify_one();
  }

  grpc::Status Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    set_.wait(lock, [this] { return status_.has_value(); });
    return *status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable set_;
  std::optional<grpc::Status> status_;  // guarded by mutex_
};

// Reads one Watch stream until it says SERVING. Fails if it ends before. The lock hands from
// thread to thread what is not gRPC's: its callbacks may each run on another one.
class WatchReactor final : public grpc::ClientBidiReactor<HealthRequest, HealthResponse> {
 public:
  WatchReactor(HealthStub* stub, grpc::ClientContext* context, const std::string& service)
      : context_(context) {
    request_.set_value(service);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      serving_ = false;
    }
    stub->PrepareBidiStreamingCall(context, "/grpc.health.v1.Health/Watch", {}, this);
    StartWriteLast(&request_, {});
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (NoteServing()) {
      context_->TryCancel();
    } else {
      StartRead(&response_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    if (IsServing()) {
      result_.Set(grpc::Status::OK);
    } else if (status.ok()) {
      result_.Set({grpc::StatusCode::UNAVAILABLE, "the watch ended"});
    } else {
      result_.Set(status);
    }
  }

  grpc::Status Wait() { return result_.Wait(); }

 private:
  bool NoteServing() {
    const std::lock_guard<std::mutex> lock(mutex_);
    serving_ = response_.value() == static_cast<int>(ServingStatus::kServing);
    return serving_;
  }

  bool IsServing() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return serving_;
  }

  grpc::ClientContext* const context_;
  HealthRequest request_;
  HealthResponse response_;
  std::mutex mutex_;
  bool serving_;  // guarded by mutex_
  PendingStatus result_;
};

using Clock = std::chrono::system_clock;

// Long pauses are for servers that have too much to do; a watch costs next to nothing, and
// whoever waits wants to know soon.
RetryPolicy PausesOf(RetryPolicy policy) {
  policy.max_attempts = std::numeric_limits<int>::max();
  policy.max_backoff = std::min(policy.max_backoff, std::chrono::milliseconds(1000));
  return policy;
}

grpc::Status Watch(HealthStub* stub, const std::string& service, const CallOptions& options,
                   grpc::ClientContext* context) {
  // A server that is still starting refuses connections: wait for it to listen.
  context->set_wait_for_ready(true);
  AddMetadata(options.metadata, context);
  const CancellationScope scope(options.cancellation, [context] { context->TryCancel(); });
  return WatchReactor(stub, context, service).Wait();
}

grpc::Status TimedOut(const CallOptions& options) {
  std::string message = "not SERVING";
  if (options.timeout) message += " after " + std::to_string(options.timeout->count()) + " ms";
  return {grpc::StatusCode::DEADLINE_EXCEEDED, message};
}

}  // namespace

const char* ServingStatusName(ServingStatus status) {
  switch (status) {
    case ServingStatus::kUnknown:
      return "UNKNOWN";
    case ServingStatus::kServing:
      return "SERVING";
    case ServingStatus::kNotServing:
      return "NOT_SERVING";
    case ServingStatus::kServiceUnknown:
      return "SERVICE_UNKNOWN";
  }
  return "UNKNOWN";
}

grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service,
                         const CallOptions& options, ServingStatus* serving) {
  HealthStub stub(channel);
  HealthRequest request;
  request.set_value(service);
  HealthResponse response;
  const auto status = CallWithRetries(options, "", [&](grpc::ClientContext* context) {
    PendingStatus done;
    stub.UnaryCall(context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                   [&done](grpc::Status result) { done.Set(std::move(result)); });
    return done.Wait();
  });
  *serving = static_cast<ServingStatus>(response.value());
  return status;
}

grpc::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel,
                              const std::string& service, const CallOptions& options) {
  const auto deadline =
      options.timeout ? Clock::now() + *options.timeout : Clock::time_point::max();
  Backoff pauses(PausesOf(options.retry));
  HealthStub stub(channel);
  do {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    const grpc::Status status = Watch(&stub, service, options, &context);
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) break;
    const auto pause = pauses.Next(status, context);
    if (!pause) return status;  // OK, too
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (!WaitUnlessCancelled(options.cancellation, std::min(*pause, left))) {
      return {grpc::StatusCode::CANCELLED, "cancelled"};
    }
  } while (Clock::now() < deadline);
  return TimedOut(options);
}

}  // namespace parallax::client
