#include "server/metrics_http.h"

#include <civetweb.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace parallax::server {
namespace {

// More threads than a scraper and a few browsers keep busy at once.
constexpr const char* kThreads = "8";
constexpr const char* kRequestTimeoutMs = "5000";
// To stop, how often and how far apart the acceptor is woken: the first time may come too early.
constexpr int kMostKnocks = 5;
constexpr absl::Duration kKnockInterval = absl::Milliseconds(10);

std::string ReachableHost(std::string_view address) {
  std::string_view host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.empty() || host == "0.0.0.0") return "127.0.0.1";
  return host == "::" ? "::1" : std::string(host);
}

void Knock(const std::string& host, int port) {
  std::array<char, 256> error = {};
  mg_connection* const connection =
      mg_connect_client(host.c_str(), port, /*use_ssl=*/0, error.data(), error.size());
  if (connection != nullptr) mg_close_connection(connection);
}

std::string Head(int status, std::string_view reason, const HttpPage& page, size_t bytes) {
  return absl::StrCat(
      "HTTP/1.1 ", status, " ", std::string(reason), "\r\nContent-Type: ", page.content_type,
      "\r\nContent-Length: ", bytes, "\r\nContent-Security-Policy: ",
      page.content_security_policy.empty() ? "default-src 'none'" : page.content_security_policy,
      "\r\nX-Content-Type-Options: nosniff"
      "\r\nCross-Origin-Resource-Policy: same-origin"
      "\r\nReferrer-Policy: no-referrer"
      "\r\nCache-Control: no-store"
      "\r\nAllow: GET, HEAD"
      "\r\nConnection: close\r\n\r\n");
}

// A reader that goes away before the end has no use for an error.
void Write(mg_connection* connection, const std::string& bytes) {
  mg_write(connection, bytes.data(), bytes.size());
}

int ReplyPlainly(mg_connection* connection, int status, std::string_view reason) {
  const HttpPage page = {
      .path = {}, .content_type = "text/plain", .content_security_policy = {}, .body = {}};
  const std::string body = absl::StrCat(std::string(reason), "\n");
  Write(connection, Head(status, reason, page, body.size()) + body);
  return status;
}

}  // namespace

MetricsHttp::MetricsHttp(const std::string& address, std::vector<HttpPage> pages)
    : host_(ReachableHost(address)), pages_(std::move(pages)) {}

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(const std::string& address,
                                                                std::vector<HttpPage> pages) {
  std::unique_ptr<MetricsHttp> http(new MetricsHttp(address, std::move(pages)));
  const char* options[] = {"listening_ports",    address.c_str(),   "num_threads", kThreads,
                           "request_timeout_ms", kRequestTimeoutMs, nullptr};
  const mg_callbacks callbacks = {};
  mg_init_data init = {
      .callbacks = &callbacks, .user_data = nullptr, .configuration_options = options};
  std::array<char, 256> text = {};
  unsigned code = 0;
  mg_error_data error = {.code = &code, .text = text.data(), .text_buffer_size = text.size()};
  http->context_ = mg_start2(&init, &error);
  if (http->context_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("--metrics-listen: cannot listen on ", address, ": in use? ", text.data()));
  }
  mg_set_request_handler(http->context_, "**", &MetricsHttp::Handle, http.get());
  return http;
}

// The acceptor looks for the end every two seconds, or when somebody connects.
MetricsHttp::~MetricsHttp() {
  if (context_ == nullptr) return;
  const int listening = port();
  absl::Notification stopped;
  std::thread stopper([&] {
    mg_stop(context_);
    stopped.Notify();
  });
  for (int i = 0; i < kMostKnocks; ++i) {
    if (stopped.WaitForNotificationWithTimeout(kKnockInterval)) break;
    Knock(host_, listening);
  }
  stopper.join();
}

int MetricsHttp::port() const {
  std::array<mg_server_port, 1> ports = {};
  return mg_get_server_ports(context_, ports.size(), ports.data()) > 0 ? ports[0].port : 0;
}

int MetricsHttp::Handle(mg_connection* connection, void* self) {
  return static_cast<const MetricsHttp*>(self)->Reply(connection);
}

int MetricsHttp::Reply(mg_connection* connection) const {
  const mg_request_info& request = *mg_get_request_info(connection);
  const std::string_view path = request.local_uri != nullptr ? request.local_uri : "";
  const std::string_view method = request.request_method;
  const auto page = std::find_if(pages_.begin(), pages_.end(),
                                 [&](const HttpPage& each) { return each.path == path; });
  if (page == pages_.end()) return ReplyPlainly(connection, 404, "Not Found");
  if (method != "GET" && method != "HEAD") {
    return ReplyPlainly(connection, 405, "Method Not Allowed");
  }
  const std::string body = page->body();
  const std::string head = Head(200, "OK", *page, body.size());
  Write(connection, method == "GET" ? head + body : head);
  return 200;
}

}  // namespace parallax::server
