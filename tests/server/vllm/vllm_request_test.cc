#include "server/vllm/vllm_request.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/retry_after.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

wire::GenerateRequest Minimal() {
  wire::GenerateRequest request;
  for (const uint32_t id : {1u, 2u, 3u}) request.mutable_tokenized()->add_input_ids(id);
  return request;
}

TEST(VllmRequestTest, WhatIsUnsetIsWrittenOutSoThatTheModelsDefaultsPlayNoPart) {
  const auto own = FromVllmRequest(Minimal());
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_FALSE(own->has_request_id());
  EXPECT_THAT(own->token_ids().ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(own->sampling().temperature(), 1.0f);
  EXPECT_TRUE(own->sampling().has_top_p());
  EXPECT_EQ(own->sampling().top_p(), 1.0f);
  EXPECT_TRUE(own->sampling().has_top_k());
  EXPECT_EQ(own->sampling().top_k(), 0);
  EXPECT_EQ(own->sampling().repetition_penalty(), 1.0f);
  EXPECT_EQ(own->sampling().n(), 1);
  EXPECT_FALSE(own->sampling().has_seed());
  EXPECT_FALSE(own->stopping().has_max_tokens()) << "what the context leaves";
  EXPECT_FALSE(own->output().has_logprobs());
}

TEST(VllmRequestTest, EveryParameterArrives) {
  wire::GenerateRequest request;
  request.set_request_id("r");
  request.set_text("hello");
  wire::SamplingParams& params = *request.mutable_sampling_params();
  params.set_temperature(0.0f);
  params.set_top_p(0.5f);
  params.set_top_k(7);
  params.set_min_p(0.1f);
  params.set_frequency_penalty(0.2f);
  params.set_presence_penalty(0.3f);
  params.set_repetition_penalty(1.5f);
  params.set_max_tokens(9);
  params.set_min_tokens(2);
  params.add_stop("x");
  params.add_stop_token_ids(4);
  params.set_skip_special_tokens(true);
  params.set_ignore_eos(true);
  params.set_n(3);
  params.set_logprobs(5);
  params.set_prompt_logprobs(6);
  params.set_seed(-1);
  params.set_include_stop_str_in_output(true);
  (*params.mutable_logit_bias())[8] = -2.0f;
  const auto own = FromVllmRequest(request);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->request_id(), "r");
  EXPECT_EQ(own->text(), "hello");
  EXPECT_EQ(own->sampling().temperature(), 0.0f);
  EXPECT_EQ(own->sampling().top_p(), 0.5f);
  EXPECT_EQ(own->sampling().top_k(), 7);
  EXPECT_EQ(own->sampling().min_p(), 0.1f);
  EXPECT_EQ(own->sampling().frequency_penalty(), 0.2f);
  EXPECT_EQ(own->sampling().presence_penalty(), 0.3f);
  EXPECT_EQ(own->sampling().repetition_penalty(), 1.5f);
  EXPECT_EQ(own->sampling().n(), 3);
  EXPECT_EQ(own->sampling().seed(), 0xffffffffu) << "seeds are bits, not numbers";
  EXPECT_EQ(own->sampling().logit_bias().at(8), -2.0f);
  EXPECT_EQ(own->stopping().max_tokens(), 9);
  EXPECT_EQ(own->stopping().min_tokens(), 2);
  EXPECT_THAT(own->stopping().stop(), ElementsAre("x"));
  EXPECT_THAT(own->stopping().stop_token_ids(), ElementsAre(4));
  EXPECT_TRUE(own->stopping().ignore_eos());
  EXPECT_TRUE(own->stopping().include_stop());
  EXPECT_EQ(own->output().logprobs(), 5);
  EXPECT_EQ(own->output().prompt_logprobs(), 6);
  EXPECT_TRUE(own->output().skip_special_tokens());
}

TEST(VllmRequestTest, WhatTheEngineCannotDoIsRefusedByName) {
  using Change = std::function<void(wire::GenerateRequest*)>;
  const std::vector<std::pair<std::string, Change>> unsupported = {
      {"sampling_params.json_schema",
       [](auto* r) { r->mutable_sampling_params()->set_json_schema("{}"); }},
      {"sampling_params.regex", [](auto* r) { r->mutable_sampling_params()->set_regex("a"); }},
      {"sampling_params.grammar", [](auto* r) { r->mutable_sampling_params()->set_grammar("a"); }},
      {"sampling_params.structural_tag",
       [](auto* r) { r->mutable_sampling_params()->set_structural_tag("a"); }},
      {"sampling_params.json_object",
       [](auto* r) { r->mutable_sampling_params()->set_json_object(true); }},
      {"sampling_params.choice", [](auto* r) { r->mutable_sampling_params()->mutable_choice(); }},
      {"sampling_params.truncate_prompt_tokens",
       [](auto* r) { r->mutable_sampling_params()->set_truncate_prompt_tokens(1); }},
      {"mm_inputs", [](auto* r) { r->mutable_mm_inputs(); }},
      {"extra_mm_inputs", [](auto* r) { r->add_extra_mm_inputs(); }},
      {"media_refs", [](auto* r) { r->mutable_media_refs(); }},
      {"kv_transfer_params", [](auto* r) { r->mutable_kv_transfer_params(); }},
      {"kv_transfer_params_json", [](auto* r) { r->set_kv_transfer_params_json("{}"); }},
  };
  for (const auto& [field, change] : unsupported) {
    wire::GenerateRequest request = Minimal();
    change(&request);
    const absl::Status status = FromVllmRequest(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << field;
    EXPECT_TRUE(std::string(status.message()).starts_with(field + ":")) << status;
  }
}

TEST(VllmRequestTest, NumbersThatNoInt32HoldsAndUnknownFieldsAreInvalid) {
  wire::GenerateRequest request = Minimal();
  request.mutable_tokenized()->add_input_ids(0x80000000u);
  EXPECT_THAT(std::string(FromVllmRequest(request).status().message()),
              HasSubstr("tokenized.input_ids: 2147483648"));
  request = Minimal();
  request.mutable_sampling_params()->set_max_tokens(0xffffffffu);
  EXPECT_EQ(FromVllmRequest(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Minimal();
  request.set_data_parallel_rank(1);
  EXPECT_EQ(FromVllmRequest(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Minimal();
  ASSERT_TRUE(request.MergeFromString(std::string("\xf8\x07\x01", 3)));  // field 127
  EXPECT_THAT(std::string(FromVllmRequest(request).status().message()), HasSubstr("127"));
}

TEST(VllmRequestTest, ErrorsNameTheFieldAsTheCallerKnowsIt) {
  const auto renamed = [](const char* message) {
    return std::string(WithVllmFieldNames(absl::InvalidArgumentError(message)).message());
  };
  EXPECT_EQ(renamed("sampling.top_p: 2"), "sampling_params.top_p: 2");
  EXPECT_EQ(renamed("stopping.include_stop: x"), "sampling_params.include_stop_str_in_output: x");
  EXPECT_EQ(renamed("stopping.stop: x"), "sampling_params.stop: x");
  EXPECT_EQ(renamed("token_ids.ids: 7"), "tokenized.input_ids: 7");
  EXPECT_EQ(renamed("request_id: x"), "request_id: x");
  absl::Status busy = absl::ResourceExhaustedError("sampling.n: x");
  busy.SetPayload("url", absl::Cord("kept"));
  EXPECT_EQ(WithVllmFieldNames(busy).GetPayload("url"), absl::Cord("kept"));
}

}  // namespace
}  // namespace parallax::server
