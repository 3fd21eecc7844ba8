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
/// and again. DEADLINE_EXCEEDED after `timeout`.
grpc::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel,
                              const std::string& service, std::chrono::milliseconds timeout);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_HEALTH_H_
