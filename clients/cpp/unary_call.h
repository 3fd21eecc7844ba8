// A blocking unary call with the library's deadline, retries and cancellation. Internal.
//
// Thread safety: a free function; many may run at once on one stub.
#ifndef PARALLAX_CLIENTS_CPP_UNARY_CALL_H_
#define PARALLAX_CLIENTS_CPP_UNARY_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <string>

#include "clients/cpp/call_options.h"
#include "clients/cpp/channel.h"

namespace parallax::client {

/// `attempt(&context)` makes one blocking attempt and returns its status.
template <typename Attempt>
grpc::Status CallWithRetries(const CallOptions& options, const std::string& token,
                             Attempt&& attempt) {
  const auto start = std::chrono::system_clock::now();
  Backoff backoff(options.retry);
  while (true) {
    grpc::ClientContext context;
    if (options.timeout) context.set_deadline(start + *options.timeout);
    AddToken(token, &context);
    AddMetadata(options.metadata, &context);
    grpc::Status status;
    {
      const CancellationScope scope(options.cancellation, [&context] { context.TryCancel(); });
      status = attempt(&context);
    }
    const auto wait = backoff.Next(status, context);
    if (!wait) return status;
    if (options.timeout && std::chrono::system_clock::now() + *wait > start + *options.timeout) {
      return status;  // waiting would only turn a cause into a timeout
    }
    if (!WaitUnlessCancelled(options.cancellation, *wait)) {
      return {grpc::StatusCode::CANCELLED, "cancelled"};
    }
  }
}

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_UNARY_CALL_H_
