// The live status page: one self-contained HTML file at `/` of the metrics port, and the
// JSON that it reads once a second. It needs nothing installed and loads nothing else.
//
// The page is static; all that is shown comes from the JSON and is set as text, never as
// markup. Its Content-Security-Policy allows the page's own style and script by their
// hashes, requests to where it came from, and nothing else; in browsers that know Trusted
// Types even a forgotten innerHTML would throw.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_STATUS_PAGE_STATUS_PAGE_H_
#define PARALLAX_SERVER_STATUS_PAGE_STATUS_PAGE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace parallax::server {

/// The HTML, with style and script in it.
std::string_view StatusPageHtml();

/// For a page with one <style> and one <script>, both inline.
std::string ContentSecurityPolicy(std::string_view html);

/// What `/status.json` is made of, at one moment.
struct ServerStatus {
  absl::Duration uptime;
  absl::Status health;
  const ServedModel* model = nullptr;
  const ModelDescription* description = nullptr;
  const RunnerLimits* limits = nullptr;
  const ServerMetrics* metrics = nullptr;
  std::vector<std::string> problems;  // JSON objects: Logger::RecentProblems
};

/// {"server": {"version", "uptime_seconds", "serving", "health"},
///  "model": {"name", "architecture", "device", ...},
///  "metrics": as MetricsJson, "problems": [...]}
/// Strings that are not UTF-8 have U+FFFD for each wrong byte.
std::string StatusJson(const ServerStatus& status);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_STATUS_PAGE_STATUS_PAGE_H_
