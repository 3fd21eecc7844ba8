// The standard gRPC health protocol (grpc.health.v1), as a client.
//
// Thread safety: free functions; may be called from any thread.
#ifndef PARALLAX_CLIENTS_CPP_HEALTH_H_
#define PARALLAX_CLIENTS_CPP_HEALTH_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <memory>
#include <string>

#include "clients/cpp/call_options.h"

namespace parallax::client {

/// The values of grpc.health.v1.HealthCheckResponse.ServingStatus.
enum class ServingStatus { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

const char* ServingStatusName(ServingStatus status);

/// Asks once. `service` empty: the server as a whole. NOT_FOUND: unknown service.
grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service,
                         const CallOptions& options, ServingStatus* serving);

/// Waits until the server can be reached and says SERVING, watching it, not asking again
/// and again. A watch that ends too soon, such as one that a front refuses while no server is
/// behind it, is started anew after a pause: `options.retry`'s, but at most a second; its
/// max_attempts plays no part. DEADLINE_EXCEEDED after `options.timeout`; unset: waits on.
/// CANCELLED by `options.cancellation`. Other errors: those that waiting does not mend.
grpc::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel,
                              const std::string& service, const CallOptions& options);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_HEALTH_H_
