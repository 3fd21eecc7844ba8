// From absl::Status (engine) to grpc::Status (wire).
//
// The two code enumerations have the same numbers by design; the mapping is written out
// and checked by a test all the same, so that a change of either library cannot slip by.
//
// Thread safety: pure functions.
#ifndef PARALLAX_SERVER_STATUS_MAPPING_H_
#define PARALLAX_SERVER_STATUS_MAPPING_H_

#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace parallax::server {

/// Unknown codes become UNKNOWN. The message is carried over; non-printable bytes are
/// percent-encoded by gRPC itself.
grpc::Status ToGrpcStatus(const absl::Status& status);

/// "OK", "INVALID_ARGUMENT", ...: the names of the gRPC documentation, as in metric labels.
std::string_view StatusCodeName(grpc::StatusCode code);

/// Number of codes, OK included; codes are 0 .. kNumStatusCodes - 1.
inline constexpr int kNumStatusCodes = 17;

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_STATUS_MAPPING_H_
