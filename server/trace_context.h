// W3C trace context: the `traceparent` of a call.
//
// This server makes no spans; it lets the caller's be found again: the value is echoed in the
// call's trailing metadata and stands in its log line.
//
// Thread safety: pure function.
#ifndef PARALLAX_SERVER_TRACE_CONTEXT_H_
#define PARALLAX_SERVER_TRACE_CONTEXT_H_

#include <string_view>

namespace parallax::server {

/// Whether `value` is VERSION-TRACEID-PARENTID-FLAGS as https://www.w3.org/TR/trace-context
/// says: lower-case hexadecimal, ids not zero, version not ff. A later version's may be longer.
/// What is not is ignored, as the recommendation asks, never an error.
bool IsTraceparent(std::string_view value);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_TRACE_CONTEXT_H_
