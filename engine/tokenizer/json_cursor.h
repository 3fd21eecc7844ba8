// JsonCursor: a place in a JSON document that knows its path ("$.model.merges[3]").
//
// Reading code is written as if all went well; the first failure is kept in one absl::Status
// that the whole document shares and that is checked at the end of a section. After a failure
// the getters return neutral values.
//
// Thread safety: none needed; used by one thread at load.
// Errors: INVALID_ARGUMENT (missing, wrong type, out of range) or UNIMPLEMENTED (Unsupported),
// each as `<path> = <value>: <why>`.
#ifndef PARALLAX_ENGINE_TOKENIZER_JSON_CURSOR_H_
#define PARALLAX_ENGINE_TOKENIZER_JSON_CURSOR_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace parallax {

/// Parses `text`, which must be one JSON object. INVALID_ARGUMENT with the place of the error.
absl::StatusOr<nlohmann::json> ParseJsonObjectText(std::string_view text);

class JsonCursor {
 public:
  /// `value` and `*status` (the document's first failure) must outlive the cursor.
  JsonCursor(const nlohmann::json& value, std::string path, absl::Status* status)
      : value_(&value), path_(std::move(path)), status_(status) {}

  /// An absent field reads as JSON null, as Hugging Face files write null for "not set".
  JsonCursor Field(const char* name) const;

  bool IsNull() const { return value_->is_null(); }
  bool IsString() const { return value_->is_string(); }
  bool IsObject() const { return value_->is_object(); }
  bool IsEmptyString() const { return IsString() && Text().empty(); }

  /// Required values.
  const std::string& Text() const;
  bool Bool() const;
  int32_t Integer(int32_t low, int32_t high) const;

  /// Null gives the fallback.
  bool BoolOr(bool fallback) const { return IsNull() ? fallback : Bool(); }

  /// The elements of a required array; their cursors.
  std::vector<JsonCursor> Elements() const;

  /// The value itself, for the large tables that are read without a path for each entry.
  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  bool ok() const { return status_->ok(); }

  void Malformed(std::string_view why) const;
  void Unsupported(std::string_view why = "is not supported") const;

 private:
  std::string Describe(std::string_view why) const;

  const nlohmann::json* value_;
  std::string path_;
  absl::Status* status_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_JSON_CURSOR_H_
