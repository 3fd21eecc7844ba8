#include "bench/server/loadgen/bare_call.h"

#include <chrono>
#include <future>

#include "absl/status/status.h"
#include "bench/server/loadgen/stream.h"
#include "clients/cpp/channel.h"
#include "grpcpp/client_context.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::loadgen {
namespace {

constexpr int kUnrecorded = 20;  // the first ones find cold caches
constexpr int kRecorded = 200;
constexpr int64_t kLongestNs = 1'000'000'000;
constexpr std::chrono::seconds kTimeout{10};

// The time of one call; the future's thread is not in it.
absl::StatusOr<int64_t> TimeOne(v1::InferenceService::Stub* stub, const std::string& token) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  client::AddToken(token, &context);
  const v1::GetModelInfoRequest request;
  v1::GetModelInfoResponse response;
  // The callback's own too: it may still be inside set_value when the value has been taken.
  const auto done = std::make_shared<std::promise<absl::StatusOr<int64_t>>>();
  const int64_t begin_ns = NowNs();
  stub->async()->GetModelInfo(
      &context, &request, &response, [done, begin_ns](const grpc::Status& status) {
        const int64_t end_ns = NowNs();
        if (status.ok()) {
          done->set_value(end_ns - begin_ns);
        } else {
          done->set_value(absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                       status.error_message()));
        }
      });
  return done->get_future().get();
}

}  // namespace

absl::StatusOr<Histogram> TimeBareCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                        const std::string& token) {
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (const auto& channel : channels) stubs.push_back(v1::InferenceService::NewStub(channel));
  Histogram times;
  const int64_t end_ns = NowNs() + kLongestNs;
  for (int i = 0; i < kUnrecorded + kRecorded; ++i) {
    absl::StatusOr<int64_t> ns = TimeOne(stubs[i % stubs.size()].get(), token);
    if (!ns.ok()) return ns.status();
    if (i >= kUnrecorded) times.Record(*ns);
    if (NowNs() > end_ns && times.count() > 0) break;
  }
  return times;
}

}  // namespace parallax::loadgen
