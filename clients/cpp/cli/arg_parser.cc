#include "clients/cpp/cli/arg_parser.h"

#include <charconv>
#include <utility>

namespace parallax::client {
namespace {

template <typename Number>
bool ParseWhole(const std::string& text, Number* value) {
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *value);
  return result.ec == std::errc() && result.ptr == end && !text.empty();
}

}  // namespace

bool ParseNumber(const std::string& text, int32_t* value) { return ParseWhole(text, value); }
bool ParseNumber(const std::string& text, int64_t* value) { return ParseWhole(text, value); }
bool ParseNumber(const std::string& text, uint64_t* value) { return ParseWhole(text, value); }
bool ParseNumber(const std::string& text, float* value) { return ParseWhole(text, value); }
bool ParseNumber(const std::string& text, double* value) { return ParseWhole(text, value); }

ArgParser::ArgParser(std::string usage, std::string summary)
    : usage_(std::move(usage)), summary_(std::move(summary)) {}

void ArgParser::Section(std::string title) { Add("", "", std::move(title), nullptr); }

void ArgParser::Add(std::string name, std::string metavar, std::string help,
                    std::function<bool(const std::string&)> read) {
  entries_.push_back({std::move(name), std::move(metavar), std::move(help), true, std::move(read)});
}

void ArgParser::Flag(std::string name, bool* value, std::string help) {
  Add(std::move(name), "", std::move(help), [value](const std::string& text) {
    *value = text == "true";
    return true;
  });
  entries_.back().takes_value = false;
}

void ArgParser::Option(std::string name, std::string metavar, std::string* value,
                       std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help), [value](const std::string& text) {
    *value = text;
    return true;
  });
}

void ArgParser::Option(std::string name, std::string metavar, int32_t* value, std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help),
      [value](const std::string& text) { return ParseNumber(text, value); });
}

void ArgParser::Option(std::string name, std::string metavar, double* value, std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help),
      [value](const std::string& text) { return ParseNumber(text, value); });
}

void ArgParser::Option(std::string name, std::string metavar, std::optional<int64_t>* value,
                       std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help),
      [value](const std::string& text) { return ParseNumber(text, &value->emplace()); });
}

void ArgParser::Option(std::string name, std::string metavar, std::optional<std::string>* value,
                       std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help), [value](const std::string& text) {
    *value = text;
    return true;
  });
}

void ArgParser::Option(std::string name, std::string metavar,
                       std::function<bool(const std::string&)> read, std::string help) {
  Add(std::move(name), std::move(metavar), std::move(help), std::move(read));
}

void ArgParser::Positional(std::vector<std::string>* values, size_t max_count) {
  positional_ = values;
  max_positional_ = max_count;
}

const ArgParser::Entry* ArgParser::Find(std::string_view name) const {
  for (const Entry& entry : entries_) {
    if (!entry.name.empty() && entry.name == name) return &entry;
  }
  return nullptr;
}

bool ArgParser::ParseOption(std::span<const std::string> arguments, size_t* at,
                            std::string* error) const {
  std::string name = arguments[*at].substr(2);
  std::optional<std::string> value;
  if (const size_t equals = name.find('='); equals != std::string::npos) {
    value = name.substr(equals + 1);
    name.resize(equals);
  }
  const Entry* entry = Find(name);
  bool negated = false;
  if (entry == nullptr && name.starts_with("no-")) {
    entry = Find(name.substr(3));
    negated = entry != nullptr && !entry->takes_value;
    if (!negated) entry = nullptr;
  }
  if (entry == nullptr) {
    *error = "unknown option --" + name;
    return false;
  }
  if (!entry->takes_value) {
    if (value) {
      *error = "--" + name + " takes no value, got \"" + *value + "\"";
      return false;
    }
    return entry->read(negated ? "false" : "true");
  }
  if (!value) {
    if (*at + 1 >= arguments.size()) {
      *error = "--" + name + " needs a value: " + entry->metavar;
      return false;
    }
    value = arguments[++*at];
  }
  if (!entry->read(*value)) {
    *error = "--" + name + ": \"" + *value + "\" is not a valid " + entry->metavar;
    return false;
  }
  return true;
}

ArgParser::Outcome ArgParser::Parse(std::span<const std::string> arguments, std::string* error) {
  bool options_ended = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!options_ended && argument == "--") {
      options_ended = true;
    } else if (!options_ended && (argument == "--help" || argument == "-h")) {
      return Outcome::kHelp;
    } else if (!options_ended && argument.starts_with("--")) {
      if (!ParseOption(arguments, &i, error)) return Outcome::kError;
    } else if (positional_ != nullptr && positional_->size() < max_positional_) {
      positional_->push_back(argument);
    } else {
      *error = "unexpected argument \"" + argument + "\"";
      return Outcome::kError;
    }
  }
  return Outcome::kRun;
}

std::string ArgParser::Help() const {
  constexpr size_t kHelpColumn = 34;
  std::string help = "Usage: parallax-client " + usage_ + "\n\n" + summary_ + "\n";
  for (const Entry& entry : entries_) {
    if (entry.name.empty()) {
      help += "\n" + entry.help + ":\n";
      continue;
    }
    std::string left = "  --" + entry.name;
    if (entry.takes_value) left += " " + entry.metavar;
    if (left.size() + 2 > kHelpColumn) {
      help += left + "\n" + std::string(kHelpColumn, ' ');
    } else {
      help += left + std::string(kHelpColumn - left.size(), ' ');
    }
    help += entry.help + "\n";
  }
  return help;
}

}  // namespace parallax::client
