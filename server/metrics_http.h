// MetricsHttp: serves a few read-only pages at http://ADDRESS, on threads of its own.
//
// GET and HEAD of exactly the given paths; anything else is 404 or 405. No reply is cached,
// framed or read by other sites' scripts. A connection carries one request, which must
// arrive within 5 seconds: idle connections (browsers open some ahead of need) cannot keep
// the scraper out for longer.
//
// Thread safety: start and stop from one thread. Bodies are made on the server's threads,
// several at once.
#ifndef PARALLAX_SERVER_METRICS_HTTP_H_
#define PARALLAX_SERVER_METRICS_HTTP_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

struct mg_context;
struct mg_connection;

namespace parallax::server {

struct HttpPage {
  std::string path;
  std::string content_type;
  std::string content_security_policy;  // empty: nothing may be loaded or run
  std::function<std::string()> body;
};

class MetricsHttp {
 public:
  /// `address` is host:port, port 0 for any free one. UNAVAILABLE naming the address if it
  /// cannot be listened on. What the bodies use outlives the server.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(const std::string& address,
                                                            std::vector<HttpPage> pages);
  /// Waits for the replies being written.
  ~MetricsHttp();
  MetricsHttp(const MetricsHttp&) = delete;
  MetricsHttp& operator=(const MetricsHttp&) = delete;

  int port() const;

 private:
  MetricsHttp(const std::string& address, std::vector<HttpPage> pages);

  static int Handle(mg_connection* connection, void* self);
  int Reply(mg_connection* connection) const;

  const std::string host_;  // where its own process reaches it
  const std::vector<HttpPage> pages_;
  mg_context* context_ = nullptr;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_HTTP_H_
