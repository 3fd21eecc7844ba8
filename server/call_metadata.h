// What a call says beside its message, and what it is answered beside the reply.
//
// Thread safety: none; the context's.
#ifndef PARALLAX_SERVER_CALL_METADATA_H_
#define PARALLAX_SERVER_CALL_METADATA_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"

namespace parallax::server {

/// The value of `key`; of a key that is there twice neither value is believed.
std::optional<std::string_view> SingleMetadatum(const grpc::ServerContextBase& context,
                                                const char* key);

/// The caller's trace context; empty: none that is valid.
std::string TraceparentOf(const grpc::ServerContextBase& context);

/// When the caller stops waiting; InfiniteFuture: never.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

/// Adds the trailing metadatum retry-after-ms if `status` has a hint.
void AddRetryAfter(const absl::Status& status, grpc::ServerContextBase* context);

/// Adds the trailing metadatum traceparent, unless it is empty.
void EchoTraceparent(const std::string& traceparent, grpc::ServerContextBase* context);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CALL_METADATA_H_
