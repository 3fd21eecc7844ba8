#include "server/unknown_fields.h"

#include <string>

#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "parallax/v1/inference.pb.h"
#include "vllm/vllm_engine.pb.h"

namespace parallax::server {
namespace {

void AddUnknown(int number, google::protobuf::Message* message) {
  message->GetReflection()->MutableUnknownFields(message)->AddVarint(number, 1);
}

std::string MessageOf(const google::protobuf::Message& message) {
  const absl::Status status = CheckNoUnknownFields(message);
  if (!status.ok()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  }
  return std::string(status.message());
}

TEST(UnknownFieldsTest, KnownOnesPassHoweverMany) {
  v1::GenerateRequest request;
  request.set_text("hello");
  request.mutable_sampling()->set_top_k(3);
  (*request.mutable_sampling()->mutable_logit_bias())[5] = 1.0f;
  request.mutable_stopping()->add_stop_token_ids(3);
  EXPECT_EQ(MessageOf(request), "");
}

TEST(UnknownFieldsTest, OfTheMessageItself) {
  v1::GenerateRequest request;
  request.mutable_sampling();
  AddUnknown(77, &request);
  EXPECT_EQ(MessageOf(request), "request: unknown field 77; this server would have to ignore it");
}

TEST(UnknownFieldsTest, OfMessagesInItAreNamedByTheirPath) {
  v1::GenerateRequest request;
  request.mutable_sampling();
  AddUnknown(99, request.mutable_scheduling());
  EXPECT_EQ(MessageOf(request),
            "scheduling: unknown field 99; this server would have to ignore it");

  ::vllm::grpc::engine::GenerateRequest gateway;
  gateway.mutable_tokenized();
  AddUnknown(5, gateway.mutable_sampling_params()->mutable_choice());
  EXPECT_EQ(MessageOf(gateway),
            "sampling_params.choice: unknown field 5; this server would have to ignore it");
}

}  // namespace
}  // namespace parallax::server
