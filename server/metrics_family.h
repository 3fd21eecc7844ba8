// An empty metric family, for those who collect.
//
// Thread safety: pure function.
#ifndef PARALLAX_SERVER_METRICS_FAMILY_H_
#define PARALLAX_SERVER_METRICS_FAMILY_H_

#include <string>
#include <string_view>

#include "prometheus/metric_family.h"

namespace parallax::server {

inline prometheus::MetricFamily Family(std::string_view name, std::string_view help,
                                       prometheus::MetricType type) {
  return {std::string(name), std::string(help), type, {}};
}

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_FAMILY_H_
