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
  /// From just before its start to the callback; the waiting thread is not in it.
  static absl::StatusOr<int64_t> Time(v1::InferenceService::Stub* stub, const std::string& token) {
    auto* call = new BareCall(stub, token);  // frees itself
    std::future<absl::StatusOr<int64_t>> time = call->time_.get_future();
    call->begin_ns_ = NowNs();
    call->StartCall();
    return time.get();
  }

 private:
  BareCall(v1::InferenceService::Stub* stub, const std::string& token) {
    context_.set_deadline(std::chrono::system_clock::now() + kTimeout);
    client::AddToken(token, &context_);
    stub->async()->GetModelInfo(&context_, &request_, &response_, this);
  }

  void OnDone(const grpc::Status& status) override {
    const int64_t ns = NowNs() - begin_ns_;
    if (status.ok()) {
      time_.set_value(ns);
    } else {
      time_.set_value(
          absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()));
    }
    delete this;
  }

  grpc::ClientContext context_;
  const v1::GetModelInfoRequest request_;
  v1::GetModelInfoResponse response_;
  int64_t begin_ns_ = 0;
  std::promise<absl::StatusOr<int64_t>> time_;
};

}  // namespace

absl::StatusOr<Histogram> TimeBareCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                        const std::string& token) {
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (const auto& channel : channels) stubs.push_back(v1::InferenceService::NewStub(channel));
  Histogram times;
  const int64_t end_ns = NowNs() + kLongestNs;
  for (int i = 0; i < kUnrecorded + kRecorded; ++i) {
    absl::StatusOr<int64_t> ns = BareCall::Time(stubs[i % stubs.size()].get(), token);
    if (!ns.ok()) return ns.status();
    if (i >= kUnrecorded) times.Record(*ns);
    if (NowNs() > end_ns && times.count() > 0) break;
  }
  return times;
}

}  // namespace parallax::loadgen
