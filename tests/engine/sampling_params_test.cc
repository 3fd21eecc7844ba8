// Every range and contradiction, with the message a client reads.
#include "engine/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "engine/request_validation.h"
#include "engine/retry_after.h"

namespace parallax {
namespace {

constexpr int32_t kVocab = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
  std::function<void(SamplingParams&)> change;
  std::string message;  // empty: accepted
};

SamplingParams Valid() {
  SamplingParams params;
  params.max_tokens = 10;
  return params;
}

TEST(ValidateSamplingParamsTest, NamesFieldAndValue) {
  using P = SamplingParams;
  const Case cases[] = {
      {[](P&) {}, ""},
      {[](P& p) { p.temperature = 0; }, ""},
      {[](P& p) { p.temperature = -0.5f; }, "temperature: -0.5 is outside [0, 100]"},
      {[](P& p) { p.temperature = 101; }, "temperature: 101 is outside [0, 100]"},
      {[](P& p) { p.temperature = kNan; }, "temperature: nan is outside [0, 100]"},
      {[](P& p) { p.temperature = kInf; }, "temperature: inf is outside [0, 100]"},
      {[](P& p) { p.top_k = -1; }, "top_k: -1 is negative (0 switches it off)"},
      {[](P& p) { p.top_k = 1 << 30; }, ""},
      {[](P& p) { p.top_p = 0; }, "top_p: 0 is outside (0, 1]"},
      {[](P& p) { p.top_p = 1.5f; }, "top_p: 1.5 is outside (0, 1]"},
      {[](P& p) { p.top_p = kNan; }, "top_p: nan is outside (0, 1]"},
      {[](P& p) { p.min_p = 1; }, ""},
      {[](P& p) { p.min_p = -1; }, "min_p: -1 is outside [0, 1]"},
      {[](P& p) { p.min_p = kNan; }, "min_p: nan is outside [0, 1]"},
      {[](P& p) { p.repetition_penalty = 1e-3f; }, ""},
      {[](P& p) { p.repetition_penalty = 0; }, "repetition_penalty: 0 is outside [0.001, 10]"},
      {[](P& p) { p.repetition_penalty = 1e-39f; },
       "repetition_penalty: 1e-39 is outside [0.001, 10]"},
      {[](P& p) { p.repetition_penalty = kInf; }, "repetition_penalty: inf is outside [0.001, 10]"},
      {[](P& p) { p.presence_penalty = -2; }, ""},
      {[](P& p) { p.presence_penalty = 2.5f; }, "presence_penalty: 2.5 is outside [-2, 2]"},
      {[](P& p) { p.frequency_penalty = kNan; }, "frequency_penalty: nan is outside [-2, 2]"},
      {[](P& p) {
         p.logit_bias = {{99, -100.0f}, {0, 100.0f}};
       },
       ""},
      {[](P& p) {
         p.logit_bias = {{100, 1.0f}};
       },
       "logit_bias: token id 100 is outside the vocabulary [0, 100)"},
      {[](P& p) {
         p.logit_bias = {{7, kNan}};
       },
       "logit_bias: nan for token id 7 is outside [-100, 100]"},
      {[](P& p) {
         p.logit_bias = {{7, -kInf}};
       },
       "logit_bias: -inf for token id 7 is outside [-100, 100]"},
      {[](P& p) {
         p.logit_bias = {{7, 1.0f}, {7, 2.0f}};
       },
       "logit_bias: token id 7 appears twice"},
      {[](P& p) { p.logit_bias.resize(1025); },
       "logit_bias: 1025 entries, at most 1024 are allowed"},
      {[](P& p) { p.n = 0; }, "n: 0 is outside [1, 64]"},
      {[](P& p) { p.n = 65; }, "n: 65 is outside [1, 64]"},
      {[](P& p) { p.max_tokens = 0; }, "max_tokens: 0 is below 1"},
      {[](P& p) { p.min_tokens = -1; }, "min_tokens: -1 is negative"},
      {[](P& p) { p.min_tokens = 10; }, ""},
      {[](P& p) { p.min_tokens = 11; }, "min_tokens: 11 is more than max_tokens 10"},
      {[](P& p) {
         p.stop_strings = {"a", ""};
       },
       "stop: string 1 is empty"},
      {[](P& p) {
         p.stop_strings = {"a", "b", "a"};
       },
       "stop: string 2 is string 0 again"},
      {[](P& p) { p.stop_strings = {std::string(257, 'x')}; },
       "stop: string 0 has 257 bytes, at most 256 are allowed"},
      {[](P& p) { p.stop_strings.resize(17, "x"); }, "stop: 17 strings, at most 16 are allowed"},
      {[](P& p) { p.stop_token_ids = {-1}; },
       "stop_token_ids: token id -1 is outside the vocabulary [0, 100)"},
      {[](P& p) { p.stop_token_ids.resize(65); }, "stop_token_ids: 65 ids, at most 64 are allowed"},
      {[](P& p) { p.logprobs = 0; }, ""},
      {[](P& p) { p.logprobs = 21; }, "logprobs: 21 is outside [0, 20]"},
      {[](P& p) { p.prompt_logprobs = -1; }, "prompt_logprobs: -1 is outside [0, 20]"},
  };
  for (const Case& test : cases) {
    SamplingParams params = Valid();
    test.change(params);
    const absl::Status status = ValidateSamplingParams(params, kVocab);
    EXPECT_EQ(std::string(status.message()), test.message);
    EXPECT_EQ(status.code(),
              test.message.empty() ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
  }
}

struct RequestCase {
  std::function<void(Request&)> change;
  bool has_tokenizer;
  std::string message;
};

TEST(ValidateRequestTest, NamesFieldAndValue) {
  const RequestCase cases[] = {
      {[](Request&) {}, true, ""},
      {[](Request& r) { r.id.clear(); }, true, "request_id: empty"},
      {[](Request& r) { r.prompt.clear(); }, true, "prompt: no tokens"},
      {[](Request& r) { r.prompt[1] = kVocab; }, true,
       "prompt: token id 100 at position 1 is outside the vocabulary [0, 100)"},
      {[](Request& r) { r.prompt[0] = -5; }, true,
       "prompt: token id -5 at position 0 is outside the vocabulary [0, 100)"},
      {[](Request& r) { r.priority = -100; }, true, ""},
      {[](Request& r) { r.priority = 101; }, true, "priority: 101 is outside [-100, 100]"},
      {[](Request& r) { r.adapter_id = 1; }, true,
       "adapter_id: 1 is not served (only 0, the base model)"},
      {[](Request& r) { r.timeout = absl::ZeroDuration(); }, true, "timeout_ms: 0 is not positive"},
      {[](Request& r) { r.sampling.n = 0; }, true, "n: 0 is outside [1, 64]"},
      {[](Request& r) { r.sampling.stop_strings = {"x"}; }, false,
       "stop: the model has no tokenizer, so there is no text"},
      {[](Request& r) { r.sampling.include_stop = true; }, false,
       "include_stop: the model has no tokenizer, so there is no text"},
      {[](Request& r) { r.sampling.skip_special_tokens = false; }, false,
       "skip_special_tokens: the model has no tokenizer, so there is no text"},
  };
  for (const RequestCase& test : cases) {
    Request request;
    request.id = "r";
    request.prompt = {1, 2};
    request.sampling = Valid();
    test.change(request);
    const absl::Status status = ValidateRequest(request, kVocab, test.has_tokenizer);
    EXPECT_EQ(std::string(status.message()), test.message);
  }
}

TEST(RetryAfterTest, TravelsWithTheStatus) {
  absl::Status status = absl::ResourceExhaustedError("full");
  EXPECT_FALSE(GetRetryAfter(status).has_value());
  SetRetryAfter(absl::Milliseconds(250), &status);
  EXPECT_EQ(GetRetryAfter(status), absl::Milliseconds(250));
}

}  // namespace
}  // namespace parallax
