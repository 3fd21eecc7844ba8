#include "server/metrics_http.h"

#include <httplib.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace parallax::server {
namespace {

std::vector<HttpPage> TwoPages() {
  return {
      {.path = "/",
       .content_type = "text/html",
       .content_security_policy = "default-src 'self'",
       .body = [] { return std::string("<p>front</p>"); }},
      {.path = "/metrics", .content_type = "text/plain", .content_security_policy = {}, .body = [] {
         return std::string("counter 1\n");
       }}};
}

class MetricsHttpTest : public testing::Test {
 protected:
  void SetUp() override {
    auto http = MetricsHttp::Start("127.0.0.1:0", TwoPages());
    ASSERT_TRUE(http.ok()) << http.status();
    http_ = *std::move(http);
    client_ = std::make_unique<httplib::Client>("127.0.0.1", http_->port());
  }

  std::unique_ptr<MetricsHttp> http_;
  std::unique_ptr<httplib::Client> client_;
};

TEST_F(MetricsHttpTest, ServesItsPagesAndNothingElse) {
  const auto metrics = client_->Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->status, 200);
  EXPECT_EQ(metrics->body, "counter 1\n");
  EXPECT_EQ(metrics->get_header_value("Content-Type"), "text/plain");
  const auto front = client_->Get("/?refresh=1");
  ASSERT_TRUE(front);
  EXPECT_EQ(front->body, "<p>front</p>");
  for (const char* path :
       {"/metrics/", "/metrics2", "/../metrics2", "/%2e%2e/etc/passwd", "/favicon.ico"}) {
    const auto reply = client_->Get(path);
    ASSERT_TRUE(reply) << path;
    EXPECT_EQ(reply->status, 404) << path;
  }
}

TEST_F(MetricsHttpTest, OnlyReads) {
  const auto head = client_->Head("/metrics");
  ASSERT_TRUE(head);
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->get_header_value("Content-Length"), "10");
  const auto post = client_->Post("/metrics", "x", "text/plain");
  ASSERT_TRUE(post);
  EXPECT_EQ(post->status, 405);
  EXPECT_EQ(post->get_header_value("Allow"), "GET, HEAD");
}

TEST_F(MetricsHttpTest, EveryReplyRestrictsWhatABrowserMayDo) {
  for (const auto& [path, policy] : {std::pair{"/", "default-src 'self'"},
                                     {"/metrics", "default-src 'none'"},
                                     {"/nothing", "default-src 'none'"}}) {
    const auto reply = client_->Get(path);
    ASSERT_TRUE(reply) << path;
    EXPECT_EQ(reply->get_header_value("Content-Security-Policy"), policy) << path;
    EXPECT_EQ(reply->get_header_value("X-Content-Type-Options"), "nosniff") << path;
    EXPECT_EQ(reply->get_header_value("Cross-Origin-Resource-Policy"), "same-origin") << path;
    EXPECT_EQ(reply->get_header_value("Cache-Control"), "no-store") << path;
  }
}

TEST(MetricsHttpStopTest, StopsAtOnceWhereverItListens) {
  for (const char* address : {"127.0.0.1:0", "0.0.0.0:0"}) {
    auto http = MetricsHttp::Start(address, {});
    ASSERT_TRUE(http.ok()) << http.status();
    const absl::Time begin = absl::Now();
    http->reset();
    EXPECT_LT(absl::Now() - begin, absl::Seconds(1)) << address;
  }
}

TEST_F(MetricsHttpTest, RefusesAnAddressInUseByName) {
  const std::string address = "127.0.0.1:" + std::to_string(http_->port());
  const auto second = MetricsHttp::Start(address, TwoPages());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(address), absl::string_view::npos);
}

}  // namespace
}  // namespace parallax::server
