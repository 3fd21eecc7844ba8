// The retry hint of a refusal: how long the caller should wait before it tries again.
//
// Travels as a payload of the absl::Status, so that it survives every layer between the
// queue that refuses and the front end that writes it on the wire.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_RETRY_AFTER_H_
#define PARALLAX_ENGINE_RETRY_AFTER_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace parallax {

/// Attaches the hint to `status`, in whole milliseconds. REQUIRES: `status` is not OK.
void SetRetryAfter(absl::Duration delay, absl::Status* status);

/// The hint, if there is one.
std::optional<absl::Duration> GetRetryAfter(const absl::Status& status);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RETRY_AFTER_H_
