// AdminService: operations on the running server (proto/parallax/v1/admin.proto).
//
// Served on its own port by its own grpc::Server with the synchronous API: Drain waits, and
// what waits here can never hold up a completion.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_ADMIN_SERVICE_H_
#define PARALLAX_SERVER_ADMIN_SERVICE_H_

#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/server_context.h"
#include "parallax/v1/admin.grpc.pb.h"
#include "server/auth.h"
#include "server/health_monitor.h"
#include "server/logger.h"

namespace parallax::server {

class AdminService final : public v1::AdminService::Service {
 public:
  /// All outlive the service.
  AdminService(Engine* engine, const Authenticator* authenticator, HealthMonitor* health,
               const Logger* logger);

  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                     v1::DrainResponse* response) override;
  grpc::Status Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                     v1::AbortResponse* response) override;
  grpc::Status GetStats(grpc::ServerContext* context, const v1::GetStatsRequest* request,
                        v1::GetStatsResponse* response) override;
  grpc::Status FlushPrefixCache(grpc::ServerContext* context,
                                const v1::FlushPrefixCacheRequest* request,
                                v1::FlushPrefixCacheResponse* response) override;

 private:
  bool AbortOne(const std::string& id);
  bool AwaitDrained(const grpc::ServerContext& context, absl::Duration timeout);

  Engine& engine_;
  const Authenticator& authenticator_;
  HealthMonitor& health_;
  const Logger& logger_;
  const absl::Time started_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ADMIN_SERVICE_H_
