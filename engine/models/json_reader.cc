#include "engine/models/json_reader.h"

#include <cmath>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace parallax {

using nlohmann::json;

namespace {

constexpr int kMaxNesting = 32;
constexpr size_t kMaxExcerpt = 80;

// Watches the parse events for repeated keys and runaway nesting. nlohmann's DOM silently keeps
// the last of two equal keys, which is how two readers come to disagree about one file.
class StrictnessGuard {
 public:
  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        CheckDepth(depth);
        open_objects_.emplace_back();
        break;
      case json::parse_event_t::array_start:
        CheckDepth(depth);
        break;
      case json::parse_event_t::object_end:
        open_objects_.pop_back();
        break;
      case json::parse_event_t::key:
        if (!open_objects_.back().insert(parsed.get<std::string>()).second) {
          throw Violation{absl::StrCat("the key ", JsonExcerpt(parsed), " appears twice")};
        }
        break;
      default:
        break;
    }
    return true;
  }

  struct Violation {
    std::string message;
  };

 private:
  static void CheckDepth(int depth) {
    if (depth > kMaxNesting) {
      throw Violation{absl::StrCat("values nest deeper than ", kMaxNesting)};
    }
  }

  std::vector<std::set<std::string>> open_objects_;
};

}  // namespace

std::string JsonExcerpt(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMaxExcerpt) {
    text.resize(kMaxExcerpt);
    text += "...";
  }
  return text;
}

absl::StatusOr<json> ParseJsonObject(std::string_view text, std::string_view file) {
  StrictnessGuard guard;
  std::string problem;
  try {
    json parsed = json::parse(text.begin(), text.end(), std::ref(guard));
    if (parsed.is_object()) return parsed;
    problem = "the root is not an object";
  } catch (const json::exception& error) {
    problem = error.what();
  } catch (const StrictnessGuard::Violation& violation) {
    problem = violation.message;
  }
  return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": ", problem));
}

bool IsIntegerWithin(const json& value, int64_t low, int64_t high) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return false;
  }
  return value.get<int64_t>() >= low && value.get<int64_t>() <= high;
}

ObjectReader::ObjectReader(const json& object, std::string path)
    : object_(object), path_(std::move(path)) {}

const json* ObjectReader::Find(const char* field) const {
  const auto it = object_.find(field);
  if (it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

void ObjectReader::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(path_, message));
}

void ObjectReader::Adopt(const ObjectReader& nested) {
  if (status_.ok()) status_ = nested.status_;
}

void ObjectReader::Refuse(const char* field, const std::string& why) {
  const json* value = Find(field);
  Fail(absl::StrCat(field, " = ", value == nullptr ? "null" : JsonExcerpt(*value), ": ", why));
}

std::optional<int64_t> ObjectReader::OptionalInteger(const char* field, int64_t low, int64_t high) {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!IsIntegerWithin(*value, low, high)) {
    Refuse(field, absl::StrCat("must be an integer from ", low, " to ", high));
    return std::nullopt;
  }
  return value->get<int64_t>();
}

int64_t ObjectReader::Integer(const char* field, int64_t low, int64_t high) {
  if (!Has(field)) Fail(absl::StrCat(field, " is missing"));
  return OptionalInteger(field, low, high).value_or(low);
}

int64_t ObjectReader::Integer(const char* field, int64_t low, int64_t high, int64_t fallback) {
  return OptionalInteger(field, low, high).value_or(fallback);
}

std::optional<double> ObjectReader::OptionalNumber(const char* field, double low, double high) {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() < low ||
      value->get<double>() > high) {
    Refuse(field, absl::StrCat("must be a number from ", low, " to ", high));
    return std::nullopt;
  }
  return value->get<double>();
}

double ObjectReader::Number(const char* field, double low, double high, double fallback) {
  return OptionalNumber(field, low, high).value_or(fallback);
}

bool ObjectReader::Boolean(const char* field, bool fallback) {
  const json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Refuse(field, "must be true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ObjectReader::String(const char* field, const std::string& fallback) {
  const json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Refuse(field, "must be a string");
    return fallback;
  }
  return value->get<std::string>();
}

}  // namespace parallax
