// ArgParser: the options and arguments of one subcommand, and its --help.
//
// Each option is bound to a variable, whose value before Parse is its default and whose
// type says how the option is read. Options are written `--name value` or `--name=value`;
// a bool is `--name` or `--no-name`; `--` ends them.
//
// Thread safety: none; one thread parses once.
#ifndef PARALLAX_CLIENTS_CPP_CLI_ARG_PARSER_H_
#define PARALLAX_CLIENTS_CPP_CLI_ARG_PARSER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace parallax::client {

class ArgParser {
 public:
  /// `usage` follows the program's name; `summary` is the help's first sentence.
  ArgParser(std::string usage, std::string summary);

  /// Starts a titled group of options in the help.
  void Section(std::string title);

  void Flag(std::string name, bool* value, std::string help);
  void Option(std::string name, std::string metavar, std::string* value, std::string help);
  void Option(std::string name, std::string metavar, int32_t* value, std::string help);
  void Option(std::string name, std::string metavar, double* value, std::string help);
  void Option(std::string name, std::string metavar, std::optional<int64_t>* value,
              std::string help);
  void Option(std::string name, std::string metavar, std::optional<std::string>* value,
              std::string help);
  /// Reads the value with `read`, which returns false if it is not understood.
  void Option(std::string name, std::string metavar, std::function<bool(const std::string&)> read,
              std::string help);
  /// What is not an option, in order. At most `max_count` of them.
  void Positional(std::vector<std::string>* values, size_t max_count);

  enum class Outcome { kRun, kHelp, kError };
  /// On kError, `*error` says what is wrong, naming the option and the value.
  Outcome Parse(std::span<const std::string> arguments, std::string* error);

  std::string Help() const;

 private:
  struct Entry {
    std::string name;  // empty: a section's title is in `help`
    std::string metavar;
    std::string help;
    bool takes_value = true;
    std::function<bool(const std::string&)> read;
  };

  const Entry* Find(std::string_view name) const;
  void Add(std::string name, std::string metavar, std::string help,
           std::function<bool(const std::string&)> read);
  bool ParseOption(std::span<const std::string> arguments, size_t* at, std::string* error) const;

  const std::string usage_;
  const std::string summary_;
  std::vector<Entry> entries_;
  std::vector<std::string>* positional_ = nullptr;
  size_t max_positional_ = 0;
};

/// The whole of `text` as a number; false if it is not one.
bool ParseNumber(const std::string& text, int32_t* value);
bool ParseNumber(const std::string& text, int64_t* value);
bool ParseNumber(const std::string& text, uint64_t* value);
bool ParseNumber(const std::string& text, float* value);
bool ParseNumber(const std::string& text, double* value);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLI_ARG_PARSER_H_
