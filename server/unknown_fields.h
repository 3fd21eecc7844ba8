// Refuses messages that carry fields this server does not know.
//
// Protobuf keeps unknown fields silently: a client built against a newer contract would
// believe that its parameter is honoured.
//
// Thread safety: pure function.
#ifndef PARALLAX_SERVER_UNKNOWN_FIELDS_H_
#define PARALLAX_SERVER_UNKNOWN_FIELDS_H_

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace parallax::server {

/// INVALID_ARGUMENT naming the path and number of the first unknown field of `message` or
/// of any message in it: "sampling: unknown field 99".
absl::Status CheckNoUnknownFields(const google::protobuf::Message& message);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_UNKNOWN_FIELDS_H_
