#include "clients/cpp/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <fstream>
#include <sstream>

namespace parallax::client {
namespace {

grpc::Status ReadFile(const std::string& path, std::string* contents) {
  if (path.empty()) return grpc::Status::OK;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "cannot read " + path};
  }
  *contents = text.str();
  return grpc::Status::OK;
}

grpc::Status TlsCredentials(const TlsOptions& tls,
                            std::shared_ptr<grpc::ChannelCredentials>* credentials) {
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "a client certificate and its key come together: cert \"" + tls.cert_file +
                "\", key \"" + tls.key_file + "\""};
  }
  grpc::SslCredentialsOptions pem;
  if (auto status = ReadFile(tls.ca_file, &pem.pem_root_certs); !status.ok()) return status;
  if (auto status = ReadFile(tls.cert_file, &pem.pem_cert_chain); !status.ok()) return status;
  if (auto status = ReadFile(tls.key_file, &pem.pem_private_key); !status.ok()) return status;
  *credentials = grpc::SslCredentials(pem);
  return grpc::Status::OK;
}

}  // namespace

grpc::Status CreateChannel(const ChannelOptions& options, std::shared_ptr<grpc::Channel>* channel) {
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    if (auto status = TlsCredentials(*options.tls, &credentials); !status.ok()) return status;
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_message_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options.keepalive.count()));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // This library retries by itself, because it honours the server's retry-after-ms.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt("parallax.connection_id", options.connection_id);
  if (options.tls && !options.tls->server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls->server_name);
  }
  *channel = grpc::CreateCustomChannel(options.target, credentials, arguments);
  return grpc::Status::OK;
}

void AddToken(const std::string& token, grpc::ClientContext* context) {
  if (!token.empty()) context->AddMetadata("authorization", "Bearer " + token);
}

void AddMetadata(const std::vector<std::pair<std::string, std::string>>& metadata,
                 grpc::ClientContext* context) {
  for (const auto& [key, value] : metadata) context->AddMetadata(key, value);
}

}  // namespace parallax::client
