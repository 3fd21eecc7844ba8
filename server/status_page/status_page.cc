#include "server/status_page/status_page.h"

#include <openssl/evp.h>

#include <array>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/metrics_pages.h"

namespace parallax::server {
namespace {

using nlohmann::json;

// What stands between the first `begin` and the next `end`: the bytes a browser hashes.
std::string_view Between(std::string_view text, std::string_view begin, std::string_view end) {
  const size_t first = text.find(begin) + begin.size();
  return text.substr(first, text.find(end, first) - first);
}

std::string HashSource(std::string_view content) {
  std::array<unsigned char, 32> digest;
  EVP_Digest(content.data(), content.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  return absl::StrCat("'sha256-",
                      absl::Base64Escape(absl::string_view(
                          reinterpret_cast<const char*>(digest.data()), digest.size())),
                      "'");
}

json ModelJson(const ServerStatus& status) {
  const ModelDescription& description = *status.description;
  return {{"name", status.model->name},
          {"architecture", description.architecture},
          {"device", description.device},
          {"weight_dtype", description.weight_dtype},
          {"kv_dtype", description.kv_dtype},
          {"num_parameters", description.num_parameters},
          {"probe", description.probe},
          {"max_context_tokens", status.model->max_context_tokens},
          {"max_num_seqs", status.limits->max_num_seqs},
          {"max_num_batched_tokens", status.limits->max_num_batched_tokens}};
}

}  // namespace

std::string ContentSecurityPolicy(std::string_view html) {
  return absl::StrCat("default-src 'none'; connect-src 'self'; style-src ",
                      HashSource(Between(html, "<style>", "</style>")), "; script-src ",
                      HashSource(Between(html, "<script>", "</script>")),
                      "; img-src data:; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'; require-trusted-types-for 'script'");
}

std::string StatusJson(const ServerStatus& status) {
  json reply = {{"server",
                 {{"version", PARALLAX_SERVER_VERSION},
                  {"uptime_seconds", absl::ToDoubleSeconds(status.uptime)},
                  {"serving", status.health.ok()},
                  {"health", std::string(status.health.message())}}},
                {"model", ModelJson(status)},
                {"metrics", MetricsJson(*status.metrics)},
                {"problems", json::array()}};
  for (const std::string& problem : status.problems) {
    reply["problems"].push_back(json::parse(problem));
  }
  return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace parallax::server
