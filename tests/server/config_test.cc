#include "server/config.h"

#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/flag_table.h"

namespace parallax::server {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ServerConfig> Parse(std::vector<std::string_view> args) {
  return ParseServerConfig(args);
}

TEST(ConfigTest, DefaultsListenOnLoopbackOnly) {
  const auto config = Parse({"--model=null"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(IsLoopbackAddress(config->listen));
  EXPECT_TRUE(IsLoopbackAddress(config->admin_listen));
  EXPECT_TRUE(IsLoopbackAddress(config->metrics_listen));
  EXPECT_EQ(config->model_name, "null");
}

TEST(ConfigTest, ReadsEveryKindOfFlag) {
  const auto config =
      Parse({"--model", "/models/tiny/", "--max-num-seqs=8", "--max-num-batched-tokens", "64",
             "--kv-cache-bytes=3MiB", "--grace-period=1m30s", "--no-prefix-cache", "--listen",
             "0.0.0.0:7", "--log-level=error", "--kv-cache-dtype=fp32"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_name, "tiny");
  EXPECT_EQ(config->max_num_seqs, 8);
  EXPECT_EQ(config->max_num_batched_tokens, 64);
  EXPECT_EQ(config->kv_cache_bytes, 3 << 20);
  EXPECT_EQ(config->grace_period, absl::Seconds(90));
  EXPECT_FALSE(config->prefix_cache);
  EXPECT_EQ(config->listen, "0.0.0.0:7");
  EXPECT_EQ(config->log_level, LogLevel::kError);
}

TEST(ConfigTest, TheNullModelsStepsMayTakeTime) {
  EXPECT_EQ(Parse({"--model=null"})->null_step_time, absl::ZeroDuration());
  const auto config = Parse({"--model=null", "--null-step-time=250ms"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->null_step_time, absl::Milliseconds(250));
}

TEST(ConfigTest, LastSettingWins) {
  const auto config = Parse({"--model=a", "--model=b", "--prefix-cache=off", "--prefix-cache"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, "b");
  EXPECT_TRUE(config->prefix_cache);
}

struct Refusal {
  std::vector<std::string_view> args;
  std::string_view message;
};

class ConfigRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(ConfigRefusalTest, NamesFlagAndValue) {
  const auto config = Parse(GetParam().args);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(std::string(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigRefusalTest,
    testing::Values(
        Refusal{{}, "--model is required"}, Refusal{{"model"}, "\"model\" is not a flag"},
        Refusal{{"--modle=x"}, "--modle is not a flag"},
        Refusal{{"--no-model"}, "--no-model is not a flag"},
        Refusal{{"--model"}, "--model needs a value"},
        Refusal{{"--model=x", "--max-num-seqs=0"}, "--max-num-seqs: \"0\" is not"},
        Refusal{{"--model=x", "--max-num-seqs=1e3"}, "--max-num-seqs: \"1e3\" is not"},
        Refusal{{"--model=x", "--max-num-seqs=99999999999"}, "\"99999999999\" is not"},
        Refusal{{"--model=x", "--max-choices=65"}, "--max-choices: \"65\""},
        Refusal{{"--model=x", "--max-num-seqs=512", "--max-num-batched-tokens=256"},
                "--max-num-batched-tokens: 256 is less than --max-num-seqs: 512"},
        Refusal{{"--model=x", "--outbox-bytes=12MB"}, "--outbox-bytes: \"12MB\" is not"},
        Refusal{{"--model=x", "--outbox-bytes=99999999TiB"}, "\"99999999TiB\" is not"},
        Refusal{{"--model=x", "--outbox-bytes=1"}, "--outbox-bytes: \"1\" is not at least"},
        Refusal{{"--model=x", "--max-message-bytes=3GiB"}, "--max-message-bytes"},
        Refusal{{"--model=x", "--grace-period=10"}, "--grace-period: \"10\" is not a duration"},
        Refusal{{"--model=x", "--grace-period=-1s"}, "--grace-period: \"-1s\""},
        Refusal{{"--model=x", "--stall-timeout=0s"}, "--stall-timeout"},
        Refusal{{"--model=x", "--min-ping-interval=inf"}, "--min-ping-interval: must be at most"},
        Refusal{{"--model=x", "--device=tpu"}, "--device: \"tpu\" is not one of"},
        Refusal{{"--model=x", "--prefix-cache=maybe"}, "--prefix-cache: \"maybe\""},
        Refusal{{"--model=x", "--listen=here"}, "--listen: \"here\" is not host:port"},
        Refusal{{"--model=x", "--listen=::1:80"}, "--listen: \"::1:80\""},
        Refusal{{"--model=x", "--listen=h:70000"}, "--listen: \"h:70000\""},
        Refusal{{"--model=x", "--metrics-listen=unix:/m"}, "--metrics-listen: \"unix:/m\""},
        Refusal{{"--model=x", "--admin-listen=0.0.0.0:1"}, "--admin-listen: 0.0.0.0:1"},
        Refusal{{"--model=x", "--admin-listen=127.corp.example:1"}, "reachable from other hosts"},
        Refusal{{"--model=x", "--tls-cert=c"}, "--tls-cert: \"c\" and --tls-key"},
        Refusal{{"--model=x", "--tls-client-ca=a"}, "--tls-client-ca: \"a\" needs"},
        Refusal{{"--model=null", "--kv-cache-bytes=1GiB"}, "--kv-cache-bytes"},
        Refusal{{"--model=x", "--null-step-time=5ms"}, "--null-step-time: 5ms needs --model=null"},
        Refusal{{"--model=x", "--kv-cache-bytes=1GiB", "--kv-cache-pages=9"}, "exclude each"}));

TEST(ConfigTest, KnowsLoopback) {
  for (const char* address :
       {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[0:0::1]:1", "localhost:1", "unix:/x"}) {
    EXPECT_TRUE(IsLoopbackAddress(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "host:1", "unix:", "127.corp.example:1",
        "127.0.0.1.example:1", "localhost.example:1", "[fe80::1]:1"}) {
    EXPECT_FALSE(IsLoopbackAddress(address)) << address;
  }
}

TEST(ConfigTest, HelpNamesEveryFlagOnce) {
  const std::string help = ServerHelp();
  for (const char* flag : {"--model=", "--listen=", "--tls-client-ca=", "--auth-token-file=",
                           "--[no-]prefix-cache", "--stall-timeout=", "(default 30s)"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
  EXPECT_TRUE(Parse({"--help"})->show_help);
}

TEST(FlagTableTest, ParsesBytes) {
  int64_t bytes = 0;
  EXPECT_TRUE(ParseBytes("8GiB", &bytes).ok());
  EXPECT_EQ(bytes, int64_t{8} << 30);
  for (const char* text : {"", "GiB", "1.5GiB", "-1", "8 GiB", "8388608TiB"}) {
    EXPECT_FALSE(ParseBytes(text, &bytes).ok()) << text;
  }
}

}  // namespace
}  // namespace parallax::server
