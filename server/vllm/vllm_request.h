// From VllmEngine's GenerateRequest to the project's own, which is then validated and run like
// any other: there is no second path to the engine.
//
// What the contract writes as 0 or leaves unset is written out, so that the model's own
// defaults play no part: the gateway has applied them already.
//
// Thread safety: pure functions.
#ifndef PARALLAX_SERVER_VLLM_VLLM_REQUEST_H_
#define PARALLAX_SERVER_VLLM_VLLM_REQUEST_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallax/v1/inference.pb.h"
#include "vllm/vllm_engine.pb.h"

namespace parallax::server {

/// UNIMPLEMENTED for what the engine cannot do (structured output, media, KV transfer),
/// INVALID_ARGUMENT for fields that this server does not know and for numbers that no int32
/// holds. Both name the field by its path in VllmEngine's message.
absl::StatusOr<v1::GenerateRequest> FromVllmRequest(
    const ::vllm::grpc::engine::GenerateRequest& wire);

/// The same error, with the field named as VllmEngine's message has it.
absl::Status WithVllmFieldNames(const absl::Status& status);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_VLLM_REQUEST_H_
