#include "server/grpc_server.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server_builder.h"
#include "server/tls.h"

namespace parallax::server {
namespace {

// The server's own pings find clients that vanished without closing their connection.
constexpr int kKeepaliveTimeMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
// Calls to AdminService that wait (Drain) hold a thread each.
constexpr int kMaxAdminThreads = 8;

void ConfigureConnections(const ServerConfig& config, grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      static_cast<int>(absl::ToInt64Milliseconds(config.min_ping_interval)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_concurrent_streams);
  // Two servers on one port would share its calls at random: refuse to start instead.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes));
  builder->SetMaxSendMessageSize(-1);  // whoever builds a reply bounds it
}

absl::Status CannotListen(const char* flag, const std::string& address) {
  return absl::UnavailableError(absl::StrCat("--", flag, ": cannot listen on ", address,
                                             ": in use? Choose another with --", flag));
}

// A null server or port 0 both mean that the address could not be bound.
bool IsListening(const std::unique_ptr<grpc::Server>& server, const std::string& address,
                 int port) {
  return server != nullptr && (port > 0 || address.starts_with("unix:"));
}

}  // namespace

GrpcServer::GrpcServer(const ServerConfig& config, const CallEnvironment* environment)
    : config_(config),
      environment_(*environment),
      inference_service_(environment),
      vllm_service_(environment) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const ServerConfig& config,
                                                              const CallEnvironment* environment) {
  // Three switches of the whole process. Debian's Abseil is built with its deadlock detector, which
  // takes one lock of all threads and walks a graph whenever gRPC takes two locks: some 4 % of a
  // loaded server's CPU time. The sanitizers look for deadlocks in tests.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<GrpcServer> server(new GrpcServer(config, environment));
  if (absl::Status s = server->StartInference(); !s.ok()) return s;
  server->health_ = std::make_unique<HealthMonitor>(
      environment->engine, config.stall_timeout,
      [raw = server.get()](bool serving) { raw->SetServing(serving); },
      environment->on_engine_failed, environment->logger);
  if (absl::Status s = server->StartAdmin(); !s.ok()) return s;
  return server;
}

absl::Status GrpcServer::StartInference() {
  auto credentials = MakeServerCredentials(config_.tls);
  if (!credentials.ok()) return credentials.status();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(config_.listen, *credentials, &port_);
  ConfigureConnections(config_, &builder);
  grpc::ResourceQuota quota("inference");
  quota.Resize(static_cast<size_t>(config_.grpc_memory_bytes));
  builder.SetResourceQuota(quota);
  builder.RegisterService(&inference_service_);
  builder.RegisterService(&vllm_service_);
  server_ = builder.BuildAndStart();
  if (!IsListening(server_, config_.listen, port_)) return CannotListen("listen", config_.listen);
  return absl::OkStatus();
}

absl::Status GrpcServer::StartAdmin() {
  // On loopback an operator needs no certificate; beyond it, mTLS (config.cc sees to that).
  const bool loopback = IsLoopbackAddress(config_.admin_listen);
  auto credentials = MakeServerCredentials(loopback ? TlsFiles() : config_.tls);
  if (!credentials.ok()) return credentials.status();
  admin_service_ = std::make_unique<AdminService>(environment_.engine, environment_.authenticator,
                                                  health_.get(), environment_.logger);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(config_.admin_listen, *credentials, &admin_port_);
  ConfigureConnections(config_, &builder);
  grpc::ResourceQuota quota("admin");
  quota.SetMaxThreads(kMaxAdminThreads);
  builder.SetResourceQuota(quota);
  builder.RegisterService(admin_service_.get());
  admin_server_ = builder.BuildAndStart();
  if (!IsListening(admin_server_, config_.admin_listen, admin_port_)) {
    return CannotListen("admin-listen", config_.admin_listen);
  }
  return absl::OkStatus();
}

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(v1::InferenceService::service_full_name(), serving);
  health->SetServingStatus("", serving);
  vllm_service_.SetServing(serving);
}

void GrpcServer::Shutdown(absl::Time deadline) {
  vllm_service_.EndSubscriptions();
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(deadline));
  if (admin_server_ != nullptr) admin_server_->Shutdown(absl::ToChronoTime(deadline));
  health_.reset();
}

GrpcServer::~GrpcServer() { Shutdown(absl::Now()); }

}  // namespace parallax::server
