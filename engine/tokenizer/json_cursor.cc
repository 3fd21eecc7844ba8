#include "engine/tokenizer/json_cursor.h"

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

using nlohmann::json;

constexpr size_t kExcerptBytes = 60;

const json& NullValue() {
  static const json null_value;
  return null_value;
}

// Compact JSON of scalars, cut to a readable length; containers by their size, as dumping a
// vocabulary to show its first line would be dear.
std::string Excerpt(const json& value) {
  if (value.is_array()) return absl::StrCat("[", value.size(), " elements]");
  if (value.is_object()) return absl::StrCat("{", value.size(), " fields}");
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kExcerptBytes) text.replace(kExcerptBytes, text.size(), "...");
  return text;
}

}  // namespace

absl::StatusOr<json> ParseJsonObjectText(std::string_view text) {
  try {
    json document = json::parse(text.begin(), text.end());
    if (!document.is_object()) return absl::InvalidArgumentError("$ is not a JSON object");
    return document;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", error.what()));
  }
}

JsonCursor JsonCursor::Field(const char* name) const {
  std::string path = absl::StrCat(path_, ".", name);
  if (!IsNull() && !IsObject()) Malformed("is not an object");
  const auto field = IsObject() ? value_->find(name) : value_->end();
  return JsonCursor(field == value_->end() ? NullValue() : *field, std::move(path), status_);
}

const std::string& JsonCursor::Text() const {
  static const std::string kEmpty;
  if (const auto* text = value_->get_ptr<const json::string_t*>()) return *text;
  Malformed("is not a string");
  return kEmpty;
}

bool JsonCursor::Bool() const {
  if (value_->is_boolean()) return value_->get<bool>();
  Malformed("is not a boolean");
  return false;
}

int32_t JsonCursor::Integer(int32_t low, int32_t high) const {
  if (value_->is_number_integer()) {
    const bool fits = !value_->is_number_unsigned() || value_->get<uint64_t>() <= INT64_MAX;
    const int64_t number = fits ? value_->get<int64_t>() : INT64_MAX;
    if (number >= low && number <= high) return static_cast<int32_t>(number);
  }
  Malformed(absl::StrCat("is not an integer from ", low, " to ", high));
  return low;
}

std::vector<JsonCursor> JsonCursor::Elements() const {
  std::vector<JsonCursor> elements;
  if (!value_->is_array()) {
    Malformed("is not an array");
    return elements;
  }
  for (size_t i = 0; i < value_->size(); ++i) {
    elements.emplace_back((*value_)[i], absl::StrCat(path_, "[", i, "]"), status_);
  }
  return elements;
}

void JsonCursor::Malformed(std::string_view why) const {
  if (status_->ok()) *status_ = absl::InvalidArgumentError(Describe(why));
}

void JsonCursor::Unsupported(std::string_view why) const {
  if (status_->ok()) *status_ = absl::UnimplementedError(Describe(why));
}

std::string JsonCursor::Describe(std::string_view why) const {
  return absl::StrCat(path_, " = ", Excerpt(*value_), ": ", std::string(why));
}

}  // namespace parallax
