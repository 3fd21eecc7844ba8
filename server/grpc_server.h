// GrpcServer: the listening side: InferenceService and VllmEngine with health and reflection on one
// port, AdminService on another.
//
// Thread safety: Start, Shutdown and the destructor from one thread; the rest from any.
#ifndef PARALLAX_SERVER_GRPC_SERVER_H_
#define PARALLAX_SERVER_GRPC_SERVER_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "server/admin_service.h"
#include "server/call_environment.h"
#include "server/config.h"
#include "server/health_monitor.h"
#include "server/inference_service.h"
#include "server/vllm/vllm_service.h"

namespace parallax::server {

class GrpcServer {
 public:
  /// Begins to serve. `environment`, and what it points to, outlives the server. Errors:
  /// INVALID_ARGUMENT (TLS files), UNAVAILABLE (an address cannot be listened on).
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const ServerConfig& config,
                                                           const CallEnvironment* environment);
  /// Shuts down at once, unless Shutdown did.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  /// Accepts no more calls, waits for the open ones until `deadline`, then cancels them.
  void Shutdown(absl::Time deadline);

  HealthMonitor& health() { return *health_; }
  /// The ports in use; 0 for a unix socket.
  int port() const { return port_; }
  int admin_port() const { return admin_port_; }

 private:
  GrpcServer(const ServerConfig& config, const CallEnvironment* environment);

  absl::Status StartInference();
  absl::Status StartAdmin();
  void SetServing(bool serving);

  const ServerConfig config_;
  const CallEnvironment& environment_;
  InferenceService inference_service_;
  VllmService vllm_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<HealthMonitor> health_;
  std::unique_ptr<AdminService> admin_service_;
  std::unique_ptr<grpc::Server> admin_server_;
  int port_ = 0;
  int admin_port_ = 0;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GRPC_SERVER_H_
