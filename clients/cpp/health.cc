#include "clients/cpp/health.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/client_callback.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

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

// Reads one Watch stream until it says SERVING.
class WatchReactor final : public grpc::ClientBidiReactor<HealthRequest, HealthResponse> {
 public:
  WatchReactor(HealthStub* stub, grpc::ClientContext* context, const std::string& service)
      : context_(context) {
    request_.set_value(service);
    stub->PrepareBidiStreamingCall(context, "/grpc.health.v1.Health/Watch", {}, this);
    StartWriteLast(&request_, {});
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.value() == static_cast<int>(ServingStatus::kServing)) {
      serving_ = true;
      context_->TryCancel();
    } else {
      StartRead(&response_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    result_.Set(serving_ ? grpc::Status::OK : status);
  }

  grpc::Status Wait() { return result_.Wait(); }

 private:
  grpc::ClientContext* const context_;
  HealthRequest request_;
  HealthResponse response_;
  bool serving_ = false;
  PendingStatus result_;
};

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
                              const std::string& service, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::system_clock::now() + timeout;
  const grpc::Status timed_out(grpc::StatusCode::DEADLINE_EXCEEDED,
                               "not SERVING after " + std::to_string(timeout.count()) + " ms");
  HealthStub stub(channel);
  while (true) {
    // A server that is still starting refuses connections: wait for it to listen.
    if (!channel->WaitForConnected(deadline)) return timed_out;
    grpc::ClientContext context;
    context.set_deadline(deadline);
    const grpc::Status status = WatchReactor(&stub, &context, service).Wait();
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) return timed_out;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return status;
  }
}

}  // namespace parallax::client
