#include "bench/server/loadgen/bare_call.h"

#include <chrono>
#include <future>

#include "absl/status/status.h"
#include "bench/server/loadgen/stream.h"
#include "clients/cpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::loadgen {
namespace {

constexpr int kUnrecorded = 20;  // the first ones find cold caches
constexpr int kRecorded = 200;
constexpr int64_t kLongestNs = 1'000'000'000;
constexpr std::chrono::seconds kTimeout{10};

class BareCall final : public grpc::ClientUnaryReactor {
 public:
  BareCall(v1::InferenceService::Stub* stub, const std::string& token) {
    context_.set_deadline(std::chrono::system_clock::now() + kTimeout);
    client::AddToken(token, &context_);
    stub->async()->GetModelInfo(&context_, &request_, &response_, this);
  }

  /// From just before its start to the callback; the waiting thread is not in it. Once.
  absl::StatusOr<int64_t> Time() {
    std::future<absl::StatusOr<int64_t>> time = time_->get_future();
    begin_ns_ = NowNs();
    StartCall();
    return time.get();
  }

 private:
  void OnDone(const grpc::Status& status) override {
    const int64_t ns = NowNs() - begin_ns_;
    // Ours too: it may still be inside set_value when the value has been taken, and this object
    // is gone.
    const auto time = time_;
    if (status.ok()) {
      time->set_value(ns);
    } else {
      time->set_value(
          absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()));
    }
  }

  grpc::ClientContext context_;
  const v1::GetModelInfoRequest request_;
  v1::GetModelInfoResponse response_;
  int64_t begin_ns_ = 0;
  const std::shared_ptr<std::promise<absl::StatusOr<int64_t>>> time_ =
      std::make_shared<std::promise<absl::StatusOr<int64_t>>>();
};

}  // namespace

absl::StatusOr<Histogram> TimeBareCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                        const std::string& token) {
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (const auto& channel : channels) stubs.push_back(v1::InferenceService::NewStub(channel));
  Histogram times;
  const int64_t end_ns = NowNs() + kLongestNs;
  for (int i = 0; i < kUnrecorded + kRecorded; ++i) {
    absl::StatusOr<int64_t> ns = BareCall(stubs[i % stubs.size()].get(), token).Time();
    if (!ns.ok()) return ns.status();
    if (i >= kUnrecorded) times.Record(*ns);
    if (NowNs() > end_ns && times.count() > 0) break;
  }
  return times;
}

}  // namespace parallax::loadgen
