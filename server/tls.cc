#include "server/tls.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/string_view.h"

namespace parallax::server {
namespace {

struct BioFree {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
struct CertFree {
  void operator()(X509* cert) const { X509_free(cert); }
};
struct KeyFree {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using CertPtr = std::unique_ptr<X509, CertFree>;
using KeyPtr = std::unique_ptr<EVP_PKEY, KeyFree>;
using BioPtr = std::unique_ptr<BIO, BioFree>;

absl::Status Bad(std::string_view flag, const std::string& path, std::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", ToAbsl(flag), ": ", path, " ", ToAbsl(problem)));
}

absl::StatusOr<std::string> ReadFile(std::string_view flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return Bad(flag, path, "cannot be read, or is empty");
  return text.str();
}

BioPtr MemoryBio(const std::string& pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

CertPtr ParseCert(const std::string& pem) {
  return CertPtr(PEM_read_bio_X509(MemoryBio(pem).get(), nullptr, nullptr, nullptr));
}

// A key with a passphrase is no key here: a server must not ask on a terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

KeyPtr ParseKey(const std::string& pem) {
  return KeyPtr(PEM_read_bio_PrivateKey(MemoryBio(pem).get(), nullptr, &NoPassphrase, nullptr));
}

absl::Status CheckPair(const TlsFiles& files, const std::string& cert_pem,
                       const std::string& key_pem) {
  const CertPtr cert = ParseCert(cert_pem);
  if (cert == nullptr) return Bad("tls-cert", files.cert, "holds no PEM certificate");
  const KeyPtr key = ParseKey(key_pem);
  if (key == nullptr) return Bad("tls-key", files.key, "holds no PEM key without passphrase");
  if (X509_check_private_key(cert.get(), key.get()) != 1) {
    return Bad("tls-key", files.key, absl::StrCat("is not the key of ", files.cert));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  if (files.cert.empty()) return grpc::InsecureServerCredentials();
  const absl::StatusOr<std::string> cert = ReadFile("tls-cert", files.cert);
  if (!cert.ok()) return cert.status();
  const absl::StatusOr<std::string> key = ReadFile("tls-key", files.key);
  if (!key.ok()) return key.status();
  if (absl::Status s = CheckPair(files, *cert, *key); !s.ok()) return s;

  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_key_cert_pairs.push_back({*key, *cert});
  if (!files.client_ca.empty()) {
    const absl::StatusOr<std::string> roots = ReadFile("tls-client-ca", files.client_ca);
    if (!roots.ok()) return roots.status();
    if (ParseCert(*roots) == nullptr) {
      return Bad("tls-client-ca", files.client_ca, "holds no PEM certificate");
    }
    options.pem_root_certs = *roots;
    options.client_certificate_request = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  return grpc::SslServerCredentials(options);
}

}  // namespace parallax::server
