// Certificates for TLS tests, made with the openssl command in a temporary folder.
#ifndef PARALLAX_TESTS_SERVER_TEST_CERTIFICATES_H_
#define PARALLAX_TESTS_SERVER_TEST_CERTIFICATES_H_

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace parallax::server {

class TestCertificates {
 public:
  TestCertificates()
      : folder_(std::filesystem::temp_directory_path() /
                ("parallax_certificates_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
    MakeAuthority("ca");
    MakeAuthority("other_ca");
    Sign("server", "ca");
    Sign("client", "ca");
    Sign("stranger", "other_ca");
  }
  ~TestCertificates() { std::filesystem::remove_all(folder_); }

  /// Names: ca, other_ca, server, client (signed by ca), stranger (by other_ca).
  std::string Cert(const std::string& name) const { return folder_ / (name + ".pem"); }
  std::string Key(const std::string& name) const { return folder_ / (name + ".key"); }

  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  void OpenSsl(const std::string& arguments) const {
    const std::string command = "openssl " + arguments + " >/dev/null 2>&1";
    if (std::system(command.c_str()) != 0) ADD_FAILURE() << "failed: " << command;
  }
  void MakeAuthority(const std::string& name) const {
    OpenSsl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=" +
            name + " -keyout " + Key(name) + " -out " + Cert(name));
  }
  void Sign(const std::string& name, const std::string& authority) const {
    const std::string request = folder_ / (name + ".csr");
    const std::string extensions = folder_ / (name + ".ext");
    std::ofstream(extensions) << "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
    OpenSsl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name +
            " -keyout " + Key(name) + " -out " + request);
    OpenSsl("x509 -req -days 2 -set_serial 1 -in " + request + " -extfile " + extensions + " -CA " +
            Cert(authority) + " -CAkey " + Key(authority) + " -out " + Cert(name));
  }

  const std::filesystem::path folder_;
};

}  // namespace parallax::server

#endif  // PARALLAX_TESTS_SERVER_TEST_CERTIFICATES_H_
