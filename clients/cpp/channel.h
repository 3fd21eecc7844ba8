// How a client reaches a parallax-server: address, TLS, token, keepalive.
//
// Thread safety: ChannelOptions is plain data; the functions may be called from any thread.
// The channel connects when first used and reconnects by itself.
#ifndef PARALLAX_CLIENTS_CPP_CHANNEL_H_
#define PARALLAX_CLIENTS_CPP_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace parallax::client {

/// Files in PEM form. Empty `ca_file` trusts the system's certificate authorities.
struct TlsOptions {
  std::string ca_file = {};
  std::string cert_file = {};  // with key_file: the client's own identity (mTLS)
  std::string key_file = {};
  std::string server_name = {};  // checked instead of the address's host name, if not empty
};

struct ChannelOptions {
  std::string target = "127.0.0.1:50051";
  std::optional<TlsOptions> tls = {};  // none: plaintext
  std::string token = {};              // sent as `authorization: Bearer ...`, if not empty
  /// HTTP/2 pings that notice a dead peer. The server accepts one every 10 s.
  std::chrono::milliseconds keepalive{30000};
  int max_message_bytes = 64 << 20;
  /// Channels with equal options share one connection; a pool member that wants its own
  /// connection sets a number nobody else uses.
  int connection_id = 0;
};

/// Sets `*channel`. INVALID_ARGUMENT names a file that cannot be read, or half an identity.
grpc::Status CreateChannel(const ChannelOptions& options, std::shared_ptr<grpc::Channel>* channel);

/// Adds the bearer token, if there is one, to a call.
void AddToken(const std::string& token, grpc::ClientContext* context);
/// Adds what CallOptions::metadata holds.
void AddMetadata(const std::vector<std::pair<std::string, std::string>>& metadata,
                 grpc::ClientContext* context);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CHANNEL_H_
