// TLS and mTLS over real connections, and what a wrong file says.
#include "server/tls.h"

#include <fstream>

#include "gmock/gmock.h"
#include "tests/server/rpc_fixture.h"
#include "tests/server/test_certificates.h"

namespace parallax::server {
namespace {

using ::testing::HasSubstr;

class TlsTest : public RpcFixture {
 protected:
  // GetModelInfo's status as a client sees it who trusts `roots` and presents `identity`.
  grpc::Status Call(const std::string& roots, const std::string& identity = "") {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = TestCertificates::Read(certificates_.Cert(roots));
    if (!identity.empty()) {
      options.pem_private_key = TestCertificates::Read(certificates_.Key(identity));
      options.pem_cert_chain = TestCertificates::Read(certificates_.Cert(identity));
    }
    return CallWith(grpc::SslCredentials(options));
  }
  grpc::Status CallWith(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    const auto stub = v1::InferenceService::NewStub(grpc::CreateChannel(address(), credentials));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::GetModelInfoResponse response;
    return stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &response);
  }
  void UseServerCertificate() {
    config_.tls.cert = certificates_.Cert("server");
    config_.tls.key = certificates_.Key("server");
  }

  const TestCertificates certificates_;
};

TEST_F(TlsTest, ServesTrustingClientsOnly) {
  UseServerCertificate();
  StartServer();
  const grpc::Status trusted = Call("ca");
  EXPECT_TRUE(trusted.ok()) << trusted.error_message();
  EXPECT_EQ(Call("other_ca").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallWith(grpc::InsecureChannelCredentials()).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, MutualTlsNeedsACertificateOfTheClientAuthority) {
  UseServerCertificate();
  config_.tls.client_ca = certificates_.Cert("ca");
  StartServer();
  const grpc::Status known = Call("ca", "client");
  EXPECT_TRUE(known.ok()) << known.error_message();
  EXPECT_EQ(Call("ca").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call("ca", "stranger").error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, WrongFilesAreNamed) {
  const std::string missing = certificates_.Cert("missing");
  const std::string text = certificates_.Key("text");
  std::ofstream(text) << "not PEM";
  const std::string cert = certificates_.Cert("server"), key = certificates_.Key("server");
  const auto problem = [](const TlsFiles& files) {
    return std::string(MakeServerCredentials(files).status().message());
  };
  EXPECT_THAT(problem({missing, key, ""}), HasSubstr("--tls-cert: " + missing));
  EXPECT_THAT(problem({cert, missing, ""}), HasSubstr("--tls-key: " + missing));
  EXPECT_THAT(problem({text, key, ""}), HasSubstr("holds no PEM certificate"));
  EXPECT_THAT(problem({cert, text, ""}), HasSubstr("holds no PEM key"));
  EXPECT_THAT(problem({cert, certificates_.Key("client"), ""}), HasSubstr("is not the key of"));
  EXPECT_THAT(problem({cert, key, text}), HasSubstr("--tls-client-ca: " + text));
  EXPECT_TRUE(MakeServerCredentials({cert, key, cert}).ok());
}

}  // namespace
}  // namespace parallax::server
