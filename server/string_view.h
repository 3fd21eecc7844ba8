// Debian builds Abseil with its own string_view, which is not std::string_view.
//
// Thread safety: pure function.
#ifndef PARALLAX_SERVER_STRING_VIEW_H_
#define PARALLAX_SERVER_STRING_VIEW_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace parallax::server {

/// For Abseil's string functions, none of which take a std::string_view.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_STRING_VIEW_H_
