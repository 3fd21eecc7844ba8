// VllmService: vllm.grpc.engine.VllmEngine, the contract of the smg gateway, as a thin adapter.
//
// Generate is the own service's stream in other messages: the same admission, validation,
// outbox and engine calls. Every method but HealthCheck asks for the caller's token where the
// server asks for tokens at all; HealthCheck, like grpc.health.v1, says nothing of use to
// strangers.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_VLLM_VLLM_SERVICE_H_
#define PARALLAX_SERVER_VLLM_VLLM_SERVICE_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/call_environment.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace parallax::server {

class VllmService final : public ::vllm::grpc::engine::VllmEngine::CallbackService {
 public:
  /// `environment` outlives the service.
  explicit VllmService(const CallEnvironment* environment);

  /// What HealthCheck answers; not healthy before the first call.
  void SetServing(bool serving) { serving_ = serving; }
  /// Ends the streams that would never end by themselves.
  void EndSubscriptions();

  grpc::ServerWriteReactor<::vllm::grpc::engine::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const ::vllm::grpc::engine::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const ::vllm::grpc::engine::EmbedRequest* request,
                                  ::vllm::grpc::engine::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* HealthCheck(
      grpc::CallbackServerContext* context, const ::vllm::grpc::engine::HealthCheckRequest* request,
      ::vllm::grpc::engine::HealthCheckResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const ::vllm::grpc::engine::AbortRequest* request,
                                  ::vllm::grpc::engine::AbortResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(
      grpc::CallbackServerContext* context,
      const ::vllm::grpc::engine::GetModelInfoRequest* request,
      ::vllm::grpc::engine::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(
      grpc::CallbackServerContext* context,
      const ::vllm::grpc::engine::GetServerInfoRequest* request,
      ::vllm::grpc::engine::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context,
                                     const ::vllm::grpc::engine::GetLoadsRequest* request,
                                     ::vllm::grpc::engine::GetLoadsResponse* response) override;
  grpc::ServerWriteReactor<::smg::grpc::common::GetTokenizerChunk>* GetTokenizer(
      grpc::CallbackServerContext* context,
      const ::smg::grpc::common::GetTokenizerRequest* request) override;
  grpc::ServerWriteReactor<::smg::grpc::common::KvEventBatch>* SubscribeKvEvents(
      grpc::CallbackServerContext* context,
      const ::smg::grpc::common::SubscribeKvEventsRequest* request) override;

 private:
  void FillModelInfo(::vllm::grpc::engine::GetModelInfoResponse* info) const;
  void FillServerInfo(::vllm::grpc::engine::GetServerInfoResponse* info) const;
  void FillLoad(const EngineStats& stats, ::vllm::grpc::engine::SchedulerLoad* load);
  /// Tokens a second since the call before last that was at least a second ago.
  double Throughput(uint64_t tokens_generated);
  /// Ends a unary call.
  grpc::ServerUnaryReactor* End(const absl::Status& status,
                                grpc::CallbackServerContext* context) const;

  const CallEnvironment& environment_;
  const absl::Time started_;
  std::atomic<bool> serving_{false};
  std::atomic<int64_t> last_receive_us_{0};  // since 1970; 0: none yet

  Mutex mutex_;
  absl::Time sampled_ PARALLAX_GUARDED_BY(mutex_);
  uint64_t sampled_tokens_ PARALLAX_GUARDED_BY(mutex_) = 0;
  double throughput_ PARALLAX_GUARDED_BY(mutex_) = 0;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_VLLM_SERVICE_H_
