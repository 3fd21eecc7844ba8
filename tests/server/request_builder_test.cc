#include "server/request_builder.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ServedModel TestModel() {
  ServedModel model;
  model.name = "tiny";
  model.vocab_size = 100;
  model.max_context_tokens = 64;
  model.default_sampling.temperature = 0.7f;
  model.default_sampling.top_k = 20;
  return model;
}

constexpr RequestLimits kLimits{.max_prompt_tokens = 60, .max_choices = 8};

v1::GenerateRequest ValidRequest() {
  v1::GenerateRequest wire;
  for (const int id : {1, 2, 3}) wire.mutable_token_ids()->add_ids(id);
  return wire;
}

absl::StatusOr<Request> Build(const v1::GenerateRequest& wire) {
  return BuildRequest(wire, TestModel(), kLimits,
                      {.principal = "alice", .fallback_id = "made-id", .fallback_seed = 42});
}

TEST(RequestBuilderTest, UnsetFieldsTakeDocumentedDefaults) {
  const auto request = Build(ValidRequest());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->id, "made-id");
  EXPECT_EQ(request->principal, "alice");
  EXPECT_THAT(request->prompt, ElementsAre(1, 2, 3));
  EXPECT_EQ(request->priority, 0);
  EXPECT_EQ(request->timeout, absl::InfiniteDuration());
  const SamplingParams& sampling = request->sampling;
  EXPECT_FLOAT_EQ(sampling.temperature, 0.7f);  // the model's
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_FLOAT_EQ(sampling.top_p, 1.0f);
  EXPECT_EQ(sampling.n, 1);
  EXPECT_EQ(sampling.seed, 42u);
  EXPECT_EQ(sampling.max_tokens, 61);  // the context less the prompt
  EXPECT_TRUE(sampling.skip_special_tokens);
  EXPECT_FALSE(sampling.logprobs.has_value());
}

TEST(RequestBuilderTest, SetFieldsWin) {
  v1::GenerateRequest wire = ValidRequest();
  wire.set_request_id("mine");
  wire.set_model("tiny");
  auto* sampling = wire.mutable_sampling();
  sampling->set_temperature(0.0f);
  sampling->set_top_k(0);
  sampling->set_seed(0);
  sampling->set_n(8);
  (*sampling->mutable_logit_bias())[7] = -1.5f;
  (*sampling->mutable_logit_bias())[3] = 2.0f;
  wire.mutable_stopping()->set_max_tokens(61);
  wire.mutable_stopping()->add_stop_token_ids(9);
  wire.mutable_output()->set_logprobs(0);
  wire.mutable_output()->set_skip_special_tokens(false);
  wire.mutable_scheduling()->set_priority(-100);
  wire.mutable_scheduling()->set_timeout_ms(1500);
  const auto request = Build(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->id, "mine");
  EXPECT_EQ(request->sampling.temperature, 0.0f);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(request->sampling.seed, 0u);
  EXPECT_EQ(request->sampling.n, 8);
  EXPECT_THAT(request->sampling.logit_bias, ElementsAre(std::pair(3, 2.0f), std::pair(7, -1.5f)));
  EXPECT_EQ(request->sampling.max_tokens, 61);
  EXPECT_EQ(request->sampling.logprobs, 0);
  EXPECT_FALSE(request->sampling.skip_special_tokens);
  EXPECT_EQ(request->priority, -100);
  EXPECT_EQ(request->timeout, absl::Milliseconds(1500));
}

TEST(RequestBuilderTest, TenantsOfDifferentCallersNeverMeet) {
  v1::GenerateRequest wire = ValidRequest();
  const auto own = Build(wire);
  wire.mutable_scheduling()->set_tenant("alice");
  const auto named = Build(wire);
  const auto by_bob = BuildRequest(wire, TestModel(), kLimits, {.principal = "bob"});
  ASSERT_TRUE(own.ok() && named.ok() && by_bob.ok());
  EXPECT_NE(own->tenant, named->tenant);
  EXPECT_NE(named->tenant, by_bob->tenant);
}

struct Refusal {
  const char* name;
  std::function<void(v1::GenerateRequest*)> spoil;
  const char* prefix;  // field path
  const char* value;   // what must be named
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class RefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesFieldAndValue) {
  v1::GenerateRequest wire = ValidRequest();
  GetParam().spoil(&wire);
  const auto request = Build(wire);
  ASSERT_FALSE(request.ok());
  const std::string message(request.status().message());
  EXPECT_EQ(request.status().code(), GetParam().code) << message;
  EXPECT_THAT(message, StartsWith(std::string(GetParam().prefix) + ":"));
  EXPECT_THAT(message, HasSubstr(GetParam().value));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Wire = v1::GenerateRequest;

const Refusal kRefusals[] = {
    {"NoPrompt", [](Wire* w) { w->clear_prompt(); }, "prompt", "text or token_ids"},
    {"EmptyIds", [](Wire* w) { w->mutable_token_ids()->clear_ids(); }, "token_ids.ids", "0 tokens"},
    {"TextWithoutTokenizer", [](Wire* w) { w->set_text("hi"); }, "text", "no tokenizer"},
    {"NegativeId", [](Wire* w) { w->mutable_token_ids()->set_ids(1, -5); }, "token_ids.ids", "-5"},
    {"IdTooLarge", [](Wire* w) { w->mutable_token_ids()->set_ids(2, 100); }, "token_ids.ids",
     "100"},
    {"LongPrompt",
     [](Wire* w) {
       for (int i = 0; i < 58; ++i) w->mutable_token_ids()->add_ids(1);
     },
     "token_ids.ids", "61 tokens"},
    {"EmptyRequestId", [](Wire* w) { w->set_request_id(""); }, "request_id", "0 bytes"},
    {"LongRequestId", [](Wire* w) { w->set_request_id(std::string(129, 'a')); }, "request_id",
     "129 bytes"},
    {"ControlInRequestId", [](Wire* w) { w->set_request_id("a\nb"); }, "request_id", "byte 10"},
    {"Utf8InRequestId", [](Wire* w) { w->set_request_id("\xc3\xa4"); }, "request_id", "byte 195"},
    {"OtherModel", [](Wire* w) { w->set_model("huge"); }, "model", "huge",
     absl::StatusCode::kNotFound},
    {"Temperature", [](Wire* w) { w->mutable_sampling()->set_temperature(100.5f); },
     "sampling.temperature", "100.5"},
    {"TemperatureNan", [](Wire* w) { w->mutable_sampling()->set_temperature(kNan); },
     "sampling.temperature", "nan"},
    {"TopK", [](Wire* w) { w->mutable_sampling()->set_top_k(-1); }, "sampling.top_k", "-1"},
    {"TopPZero", [](Wire* w) { w->mutable_sampling()->set_top_p(0.0f); }, "sampling.top_p", "0"},
    {"TopP", [](Wire* w) { w->mutable_sampling()->set_top_p(1.5f); }, "sampling.top_p", "1.5"},
    {"MinP", [](Wire* w) { w->mutable_sampling()->set_min_p(-0.5f); }, "sampling.min_p", "-0.5"},
    {"RepetitionPenalty", [](Wire* w) { w->mutable_sampling()->set_repetition_penalty(0.0f); },
     "sampling.repetition_penalty", "0"},
    {"PresencePenalty", [](Wire* w) { w->mutable_sampling()->set_presence_penalty(2.5f); },
     "sampling.presence_penalty", "2.5"},
    {"FrequencyPenalty", [](Wire* w) { w->mutable_sampling()->set_frequency_penalty(kInfinity); },
     "sampling.frequency_penalty", "inf"},
    {"LogitBiasValue", [](Wire* w) { (*w->mutable_sampling()->mutable_logit_bias())[1] = 101; },
     "sampling.logit_bias", "101"},
    {"LogitBiasId", [](Wire* w) { (*w->mutable_sampling()->mutable_logit_bias())[500] = 1; },
     "sampling.logit_bias", "500"},
    {"NZero", [](Wire* w) { w->mutable_sampling()->set_n(0); }, "sampling.n", "0"},
    {"NOverLimit", [](Wire* w) { w->mutable_sampling()->set_n(9); }, "sampling.n", "9"},
    {"MaxTokensZero", [](Wire* w) { w->mutable_stopping()->set_max_tokens(0); },
     "stopping.max_tokens", "0"},
    {"MaxTokensOverContext", [](Wire* w) { w->mutable_stopping()->set_max_tokens(62); },
     "stopping.max_tokens", "62"},
    {"MinTokens", [](Wire* w) { w->mutable_stopping()->set_min_tokens(-1); }, "stopping.min_tokens",
     "-1"},
    {"MinOverMax",
     [](Wire* w) {
       w->mutable_stopping()->set_max_tokens(4);
       w->mutable_stopping()->set_min_tokens(5);
     },
     "stopping.min_tokens", "5"},
    {"StopWithoutTokenizer", [](Wire* w) { w->mutable_stopping()->add_stop("x"); }, "stopping.stop",
     "no tokenizer"},
    {"EmptyStop", [](Wire* w) { w->mutable_stopping()->add_stop(""); }, "stopping.stop", "empty"},
    {"LongStop", [](Wire* w) { w->mutable_stopping()->add_stop(std::string(257, 's')); },
     "stopping.stop", "257"},
    {"ManyStops",
     [](Wire* w) {
       for (int i = 0; i < 17; ++i) w->mutable_stopping()->add_stop(std::to_string(i));
     },
     "stopping.stop", "17"},
    {"StopTokenId", [](Wire* w) { w->mutable_stopping()->add_stop_token_ids(100); },
     "stopping.stop_token_ids", "100"},
    {"ManyStopTokens",
     [](Wire* w) {
       for (int i = 0; i < 65; ++i) w->mutable_stopping()->add_stop_token_ids(i);
     },
     "stopping.stop_token_ids", "65"},
    {"Logprobs", [](Wire* w) { w->mutable_output()->set_logprobs(21); }, "output.logprobs", "21"},
    {"PromptLogprobs", [](Wire* w) { w->mutable_output()->set_prompt_logprobs(-1); },
     "output.prompt_logprobs", "-1"},
    {"Priority", [](Wire* w) { w->mutable_scheduling()->set_priority(101); }, "scheduling.priority",
     "101"},
    {"Tenant", [](Wire* w) { w->mutable_scheduling()->set_tenant(std::string(129, 't')); },
     "scheduling.tenant", "129 bytes"},
    {"Timeout", [](Wire* w) { w->mutable_scheduling()->set_timeout_ms(0); },
     "scheduling.timeout_ms", "0"},
};

INSTANTIATE_TEST_SUITE_P(All, RefusalTest, testing::ValuesIn(kRefusals),
                         [](const auto& info) { return std::string(info.param.name); });

// A stream holds them for its reader outside of its outbox's bound.
TEST(RequestBuilderTest, WhatIsToldOfThePromptIsBounded) {
  v1::GenerateRequest wire = ValidRequest();
  const auto build = [&](size_t max_bytes) {
    const RequestLimits limits{
        .max_prompt_tokens = 60, .max_choices = 8, .max_response_bytes = max_bytes};
    return BuildRequest(wire, TestModel(), limits, {}).status();
  };
  EXPECT_TRUE(build(0).ok());
  wire.mutable_output()->set_prompt_logprobs(20);
  EXPECT_TRUE(build(2000).ok());
  EXPECT_THAT(
      std::string(build(1000).message()),
      StartsWith("output.prompt_logprobs: with 3 prompt tokens and n = 1 it takes at least"));
  wire.mutable_output()->set_echo(true);
  wire.mutable_output()->set_logprobs(0);
  EXPECT_TRUE(build(3000).ok());
  wire.mutable_sampling()->set_n(8);  // as many copies for the client
  EXPECT_TRUE(build(12'000).ok());
  const absl::Status refused = build(10'000);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), StartsWith("output.echo: "));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("at most 10000 are allowed"));
}

}  // namespace
}  // namespace parallax::server
