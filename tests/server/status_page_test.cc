#include "server/status_page/status_page.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/metrics_pages.h"

namespace parallax::server {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsJsonTest, HasTheNumbersOfTheText) {
  ServerMetrics metrics("tiny");
  metrics.OnSubmitted(10);
  metrics.OnRpc(RpcMethod::kGenerate, grpc::StatusCode::OK);
  metrics.OnInterTokenLatency(absl::Milliseconds(2));
  const json families = MetricsJson(metrics);
  const json& prompt = families["parallax:prompt_tokens_total"];
  ASSERT_EQ(prompt.size(), 1u);
  EXPECT_EQ(prompt[0]["value"], 10);
  EXPECT_EQ(prompt[0]["labels"], json({{"model_name", "tiny"}}));
  EXPECT_EQ(families["parallax:kv_cache_usage_perc"][0]["value"], 0);
  const json& gap = families["parallax:inter_token_latency_seconds"][0];
  EXPECT_EQ(gap["count"], 1);
  EXPECT_DOUBLE_EQ(gap["sum"], 0.002);
  EXPECT_EQ(gap["buckets"].front(), json({0.0001, 0}));
  EXPECT_EQ(gap["buckets"].back(), json({nullptr, 1}));
}

struct Served {
  Served() { model.name = "tiny"; }

  ServedModel model;
  ModelDescription description;
  RunnerLimits limits;
  ServerMetrics metrics{"tiny"};

  ServerStatus Status() const {
    return {.uptime = absl::Milliseconds(1500),
            .health = absl::OkStatus(),
            .model = &model,
            .description = &description,
            .limits = &limits,
            .metrics = &metrics,
            .problems = {}};
  }
};

TEST(StatusJsonTest, SaysWhatRunsAndHowItIs) {
  Served served;
  served.description.device = "CPU";
  served.limits.max_num_seqs = 8;
  ServerStatus status = served.Status();
  status.health = absl::UnavailableError("stalled");
  status.problems = {R"({"level":"error","event":"broke"})"};
  const json reply = json::parse(StatusJson(status));
  EXPECT_EQ(reply["server"]["uptime_seconds"], 1.5);
  EXPECT_EQ(reply["server"]["serving"], false);
  EXPECT_EQ(reply["server"]["health"], "stalled");
  EXPECT_EQ(reply["model"]["name"], "tiny");
  EXPECT_EQ(reply["model"]["device"], "CPU");
  EXPECT_EQ(reply["model"]["max_num_seqs"], 8);
  EXPECT_EQ(reply["problems"][0]["event"], "broke");
  EXPECT_TRUE(reply["metrics"].contains("parallax:kv_pages_used"));
}

TEST(StatusJsonTest, StaysJsonWhateverTheModelIsCalled) {
  Served served;
  served.model.name = "\"</script>\n\xff";
  const json reply = json::parse(StatusJson(served.Status()));
  EXPECT_EQ(reply["model"]["name"], "\"</script>\n\uFFFD");
}

TEST(ContentSecurityPolicyTest, AllowsTheInlineStyleAndScriptByHash) {
  // `printf %s 'a{}' | openssl dgst -sha256 -binary | base64`, and of `let b;`.
  const std::string policy =
      ContentSecurityPolicy("<style>a{}</style><body><script>let b;</script>");
  EXPECT_THAT(policy,
              HasSubstr("style-src 'sha256-X1RutGBrXCt9KkSaXMK7tHftWiRscFHOhxsS8tv8hBk=';"));
  EXPECT_THAT(policy,
              HasSubstr("script-src 'sha256-hsI9g1gl6FsTzmrcC9WiR+tkeMH1/0jO77fiJQKbJqM=';"));
  EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
}

TEST(StatusPageHtmlTest, IsOneSelfContainedFile) {
  const std::string html(StatusPageHtml());
  const auto count = [&](const std::string& part) {
    int found = 0;
    for (size_t at = html.find(part); at != html.npos; at = html.find(part, at + 1)) ++found;
    return found;
  };
  EXPECT_THAT(html, Not(HasSubstr("@STATUS")));
  EXPECT_EQ(count("<style"), 1);
  EXPECT_EQ(count("<script"), 1);
  EXPECT_EQ(count("</script>"), 1);
  EXPECT_EQ(count(" src="), 0);
  // Names of XML's vocabulary, never fetched.
  EXPECT_EQ(count("http"), count("http://www.w3.org/2000/svg"));
  EXPECT_EQ(count("innerHTML"), 0);
}

}  // namespace
}  // namespace parallax::server
