// MetricsHttp: serves a Collectable at http://ADDRESS/metrics, on threads of its own.
//
// Thread safety: start and stop from one thread.
#ifndef PARALLAX_SERVER_METRICS_HTTP_H_
#define PARALLAX_SERVER_METRICS_HTTP_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"

namespace parallax::server {

class MetricsHttp {
 public:
  /// `address` is host:port, port 0 for any free one. UNAVAILABLE naming the address if it
  /// cannot be listened on. Keeps only a weak reference to `metrics`.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(
      const std::string& address, const std::shared_ptr<prometheus::Collectable>& metrics);

  int port() const { return port_; }

 private:
  MetricsHttp(std::unique_ptr<prometheus::Exposer> exposer, int port)
      : exposer_(std::move(exposer)), port_(port) {}

  std::unique_ptr<prometheus::Exposer> exposer_;
  const int port_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_HTTP_H_
