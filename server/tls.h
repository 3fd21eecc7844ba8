// Server credentials from PEM files.
//
// Thread safety: pure function of the files.
#ifndef PARALLAX_SERVER_TLS_H_
#define PARALLAX_SERVER_TLS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "server/config.h"

namespace parallax::server {

/// Plaintext without a certificate; with a client CA, clients must present a certificate.
/// INVALID_ARGUMENT naming the flag and the file: not readable, not PEM, or the key is not
/// the certificate's. (gRPC itself would only log, and fail to listen.)
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_TLS_H_
