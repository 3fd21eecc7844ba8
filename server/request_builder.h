// BuildRequest: from the wire's GenerateRequest to the engine's Request.
//
// The one place where values are validated. Whatever is out of range, contradictory or not
// supported is refused with a message that opens with the field's path in the proto and contains
// the value:  "sampling.top_p: 1.5 is outside (0, 1]". Fields that this server does not know are
// refused before, in the message that came (unknown_fields.h).
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_REQUEST_BUILDER_H_
#define PARALLAX_SERVER_REQUEST_BUILDER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "parallax/v1/inference.pb.h"
#include "server/served_model.h"

namespace parallax::server {

inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr int kMaxTenantBytes = 128;

/// What a request takes from its call rather than from its message.
struct CallFacts {
  std::string principal;
  absl::Time arrival = absl::InfiniteFuture();   // at the server
  absl::Time deadline = absl::InfiniteFuture();  // gRPC's
  std::string fallback_id = {};                  // when request_id is unset
  uint64_t fallback_seed = 0;                    // when sampling.seed is unset
};

/// INVALID_ARGUMENT, or NOT_FOUND for another model's name. The request's max_tokens is
/// resolved: prompt plus max_tokens fit the context.
absl::StatusOr<Request> BuildRequest(const v1::GenerateRequest& wire, const ServedModel& model,
                                     const RequestLimits& limits, CallFacts facts);

/// 1 to kMaxRequestIdBytes bytes of printable ASCII. `field` names it in the error.
absl::Status CheckRequestId(std::string_view field, std::string_view id);

/// A token id that the model defines. `field` names it in the error.
absl::Status CheckTokenId(std::string_view field, int32_t id, const ServedModel& model);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_REQUEST_BUILDER_H_
