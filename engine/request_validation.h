// ValidateRequest: what the engine refuses before a request gets into the queue.
//
// Thread safety: pure function.
#ifndef PARALLAX_ENGINE_REQUEST_VALIDATION_H_
#define PARALLAX_ENGINE_REQUEST_VALIDATION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/request.h"

namespace parallax {

/// INVALID_ARGUMENT naming the field and the value. Whether the request fits the context and
/// the pages is the scheduler's to say (Scheduler::CheckFits). Without a tokenizer, options
/// that only change text are refused rather than ignored.
absl::Status ValidateRequest(const Request& request, int32_t vocab_size, bool has_tokenizer);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_REQUEST_VALIDATION_H_
