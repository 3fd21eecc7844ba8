// Strict reading of the JSON files of a checkpoint folder.
//
// ParseJsonObject() refuses what a lenient parser lets through: repeated keys, a root that is
// not an object, absurd nesting. ObjectReader reads typed fields of one object and remembers the
// first field that is missing, of the wrong type or out of range, so that a parser reads as a
// list of fields and checks the status once.
//
// Thread safety: none needed; both are used by one thread at load time.
// Errors: INVALID_ARGUMENT naming the file, the field and the offending value.
#ifndef PARALLAX_ENGINE_MODELS_JSON_READER_H_
#define PARALLAX_ENGINE_MODELS_JSON_READER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace parallax {

// Parses `text`, which must be one JSON object. `file` names it in messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file);

// The value as it is shown in a message: compact JSON, cut to a readable length.
std::string JsonExcerpt(const nlohmann::json& value);

// Whether `value` is an integer within [low, high]; correct for any 64-bit signed or unsigned one.
bool IsIntegerWithin(const nlohmann::json& value, int64_t low, int64_t high);

class ObjectReader {
 public:
  // Reads `object` (not owned; must outlive the reader). `path` prefixes field names in
  // messages, e.g. "config.json: rope_scaling."
  ObjectReader(const nlohmann::json& object, std::string path);

  // The field's value, or null when it is absent. JSON null counts as absent everywhere, as
  // Hugging Face configurations write null for "not set".
  const nlohmann::json* Find(const char* field) const;
  bool Has(const char* field) const { return Find(field) != nullptr; }

  // Required and optional integers within [low, high].
  int64_t Integer(const char* field, int64_t low, int64_t high);
  int64_t Integer(const char* field, int64_t low, int64_t high, int64_t fallback);
  std::optional<int64_t> OptionalInteger(const char* field, int64_t low, int64_t high);

  // Finite numbers within [low, high].
  double Number(const char* field, double low, double high, double fallback);
  std::optional<double> OptionalNumber(const char* field, double low, double high);

  bool Boolean(const char* field, bool fallback);
  std::string String(const char* field, const std::string& fallback);

  // Refuses the file because of `field`: "<path><field> = <value>: <why>".
  void Refuse(const char* field, const std::string& why);
  void Fail(const std::string& message);
  // Takes over the failure of a nested object's reader, if it has one.
  void Adopt(const ObjectReader& nested);

  // The first failure, if any.
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  std::string path_;
  absl::Status status_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_JSON_READER_H_
