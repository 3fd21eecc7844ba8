#include "server/flag_table.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/string_view.h"

namespace parallax::server {
namespace {

absl::Status BadValue(std::string_view value, std::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", ToAbsl(value), "\" is not ", ToAbsl(expected)));
}

struct ByteSuffix {
  std::string_view name;
  int shift;
};
constexpr std::array<ByteSuffix, 4> kByteSuffixes = {
    {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}}};

std::string FormatBytes(int64_t bytes) {
  for (auto suffix = kByteSuffixes.rbegin(); suffix != kByteSuffixes.rend(); ++suffix) {
    if (bytes > 0 && bytes % (int64_t{1} << suffix->shift) == 0) {
      return absl::StrCat(bytes >> suffix->shift, ToAbsl(suffix->name));
    }
  }
  return absl::StrCat(bytes);
}

// Wraps `text` at 88 columns behind an indent of 6.
std::string Wrap(const std::string& text) {
  std::string wrapped;
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (column == 0 || column + word.size() > 82) {
      absl::StrAppend(&wrapped, column == 0 ? "      " : "\n      ", word);
      column = word.size();
    } else {
      absl::StrAppend(&wrapped, " ", word);
      column += word.size() + 1;
    }
  }
  return wrapped;
}

}  // namespace

absl::Status ParseBytes(std::string_view text, int64_t* bytes) {
  int shift = 0;
  std::string_view digits = text;
  for (const ByteSuffix& suffix : kByteSuffixes) {
    if (!digits.ends_with(suffix.name)) continue;
    digits.remove_suffix(suffix.name.size());
    shift = suffix.shift;
    break;
  }
  int64_t count = 0;
  const bool only_digits = digits.find_first_not_of("0123456789") == digits.npos;
  if (!only_digits || !absl::SimpleAtoi(ToAbsl(digits), &count) ||
      count > (std::numeric_limits<int64_t>::max() >> shift)) {
    return BadValue(text, "a number of bytes such as 1048576, 512MiB or 8GiB");
  }
  *bytes = count << shift;
  return absl::OkStatus();
}

void FlagTable::Section(std::string_view title) {
  flags_.push_back({"", "", "", std::string(title), nullptr});
}

void FlagTable::String(std::string_view name, std::string_view value_name, std::string* target,
                       std::string_view help) {
  flags_.push_back({std::string(name), std::string(value_name), *target, std::string(help),
                    [target](std::string_view value) {
                      *target = std::string(value);
                      return absl::OkStatus();
                    }});
}

void FlagTable::Choice(std::string_view name, std::vector<std::string> choices, std::string* target,
                       std::string_view help) {
  std::string value_name = absl::StrJoin(choices, "|");
  flags_.push_back({std::string(name), std::move(value_name), *target, std::string(help),
                    [target, choices = std::move(choices)](std::string_view value) {
                      if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
                        return BadValue(value,
                                        absl::StrCat("one of ", absl::StrJoin(choices, ", ")));
                      }
                      *target = std::string(value);
                      return absl::OkStatus();
                    }});
}

void FlagTable::Int(std::string_view name, int32_t min, int32_t max, int32_t* target,
                    std::string_view help) {
  flags_.push_back(
      {std::string(name), "N", absl::StrCat(*target), std::string(help),
       [target, min, max](std::string_view value) {
         int32_t number = 0;
         if (!absl::SimpleAtoi(ToAbsl(value), &number) || number < min || number > max) {
           return BadValue(value, absl::StrCat("a whole number in [", min, ", ", max, "]"));
         }
         *target = number;
         return absl::OkStatus();
       }});
}

void FlagTable::Bytes(std::string_view name, int64_t min, int64_t* target, std::string_view help) {
  flags_.push_back({std::string(name), "BYTES", FormatBytes(*target), std::string(help),
                    [target, min](std::string_view value) {
                      int64_t bytes = 0;
                      if (absl::Status s = ParseBytes(value, &bytes); !s.ok()) return s;
                      if (bytes < min) {
                        return BadValue(value, absl::StrCat("at least ", FormatBytes(min)));
                      }
                      *target = bytes;
                      return absl::OkStatus();
                    }});
}

void FlagTable::Duration(std::string_view name, absl::Duration* target, std::string_view help) {
  flags_.push_back({std::string(name), "TIME", absl::FormatDuration(*target), std::string(help),
                    [target](std::string_view value) {
                      absl::Duration duration;
                      if (!absl::ParseDuration(ToAbsl(value), &duration) ||
                          duration < absl::ZeroDuration()) {
                        return BadValue(value, "a duration such as 500ms, 30s or 1m30s");
                      }
                      *target = duration;
                      return absl::OkStatus();
                    }});
}

void FlagTable::Switch(std::string_view name, bool* target, std::string_view help) {
  flags_.push_back({std::string(name), "", *target ? "on" : "off", std::string(help),
                    [target](std::string_view value) {
                      if (value != "true" && value != "false" && value != "on" && value != "off") {
                        return BadValue(value, "on or off");
                      }
                      *target = value == "true" || value == "on";
                      return absl::OkStatus();
                    }});
}

const FlagTable::Flag* FlagTable::Find(std::string_view name) const {
  for (const Flag& flag : flags_) {
    if (!flag.name.empty() && flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status FlagTable::Parse(std::span<const std::string_view> args) const {
  for (size_t next = 0; next < args.size();) {
    if (absl::Status s = ParseOne(args, &next); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status FlagTable::ParseOne(std::span<const std::string_view> args, size_t* next) const {
  const std::string_view arg = args[(*next)++];
  if (!arg.starts_with("--")) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", ToAbsl(arg), "\" is not a flag; see --help"));
  }
  const size_t equals = arg.find('=');
  const std::string_view name = arg.substr(2, equals == arg.npos ? arg.npos : equals - 2);
  const bool negated = equals == arg.npos && name.starts_with("no-") && Find(name) == nullptr;
  const Flag* flag = Find(negated ? name.substr(3) : name);
  if (flag == nullptr || (negated && !flag->value_name.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", ToAbsl(name), " is not a flag; see --help"));
  }
  std::string_view value = negated ? "off" : "on";
  if (equals != arg.npos) {
    value = arg.substr(equals + 1);
  } else if (!flag->value_name.empty()) {
    if (*next == args.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag->name, " needs a value"));
    }
    value = args[(*next)++];
  }
  const absl::Status set = flag->set(value);
  if (set.ok()) return set;
  return absl::InvalidArgumentError(absl::StrCat("--", flag->name, ": ", set.message()));
}

std::string FlagTable::Help() const {
  std::string help;
  for (const Flag& flag : flags_) {
    if (flag.name.empty()) {
      absl::StrAppend(&help, "\n", flag.help, "\n");
      continue;
    }
    absl::StrAppend(&help, "  --", flag.value_name.empty() ? "[no-]" : "", flag.name,
                    flag.value_name.empty() ? "" : "=", flag.value_name);
    if (!flag.default_value.empty()) {
      absl::StrAppend(&help, "  (default ", flag.default_value, ")");
    }
    absl::StrAppend(&help, "\n", Wrap(flag.help), "\n");
  }
  return help;
}

}  // namespace parallax::server
