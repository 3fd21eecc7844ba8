// An in-process server whose grpc.health.v1 Watch streams follow a script, for tests of the
// client.
//
// Thread safety: the script is set before the calls; the records may be read at any time.
#ifndef PARALLAX_TESTS_CLIENTS_CPP_FAKE_HEALTH_H_
#define PARALLAX_TESTS_CLIENTS_CPP_FAKE_HEALTH_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "clients/cpp/health.h"

namespace parallax::client {

/// What one Watch gets.
struct ScriptedWatch {
  std::vector<ServingStatus> says = {};
  grpc::Status end = {};
  bool hang = false;  // then do not end, but wait for the client to go
};

/// One Watch stream. Deletes itself when gRPC is done with it.
class FakeWatch final : public grpc::ServerGenericBidiReactor {
 public:
  explicit FakeWatch(ScriptedWatch script) : script_(std::move(script)) { WriteNext(); }

  void OnWriteDone(bool ok) override {
    if (ok) {
      WriteNext();
    } else if (!script_.hang) {
      Finish(script_.end);
    }
  }
  void OnCancel() override {
    if (script_.hang) Finish({grpc::StatusCode::CANCELLED, "the client went away"});
  }
  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    if (said_ < script_.says.size()) {
      // HealthCheckResponse { ServingStatus status = 1; }
      const grpc::Slice slice(std::string("\x08") + static_cast<char>(script_.says[said_++]));
      message_ = grpc::ByteBuffer(&slice, 1);
      StartWrite(&message_);
    } else if (!script_.hang) {
      Finish(script_.end);
    }
  }

  const ScriptedWatch script_;
  size_t said_ = 0;
  grpc::ByteBuffer message_;
};

class FakeHealthService final : public grpc::CallbackGenericService {
 public:
  /// What the next watches get; the last of it is repeated.
  void Script(std::vector<ScriptedWatch> script) {
    const std::lock_guard<std::mutex> lock(mutex_);
    script_.assign(script.begin(), script.end());
  }

  int watches() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return watches_;
  }

  std::string last_traceparent() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return traceparent_;
  }

  void AwaitWatches(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return watches_ >= count; });
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++watches_;
    const auto traceparent = context->client_metadata().find("traceparent");
    if (traceparent != context->client_metadata().end()) {
      traceparent_.assign(traceparent->second.data(), traceparent->second.size());
    }
    ScriptedWatch watch = script_.front();
    if (script_.size() > 1) script_.pop_front();
    changed_.notify_all();
    return new FakeWatch(std::move(watch));
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ScriptedWatch> script_ = {ScriptedWatch{}};
  int watches_ = 0;
  std::string traceparent_;
};

/// A FakeHealthService behind a real port of the loopback interface.
class FakeHealthServer {
 public:
  FakeHealthServer() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeHealthServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  FakeHealthService& service() { return service_; }
  const std::string& address() const { return address_; }

 private:
  FakeHealthService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace parallax::client

#endif  // PARALLAX_TESTS_CLIENTS_CPP_FAKE_HEALTH_H_
