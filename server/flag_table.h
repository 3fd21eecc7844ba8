// FlagTable: command-line flags as data: name, where the value goes, and what it means.
//
// A flag is written --name=value or --name value; a switch also as --name or --no-name.
// An argument that is no flag, an unknown flag and a value that does not parse are
// INVALID_ARGUMENT naming the flag and the value. The last of several settings wins.
// Own code rather than a flags library, so that parsing reports errors instead of exiting,
// touches no globals and can be tested.
//
// Thread safety: none; built, used and dropped by one thread.
#ifndef PARALLAX_SERVER_FLAG_TABLE_H_
#define PARALLAX_SERVER_FLAG_TABLE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace parallax::server {

class FlagTable {
 public:
  // Each adds a flag whose default is the present value of `*target`, which must outlive
  // the table. A name is added once.
  void Section(std::string_view title);
  void String(std::string_view name, std::string_view value_name, std::string* target,
              std::string_view help);
  void Choice(std::string_view name, std::vector<std::string> choices, std::string* target,
              std::string_view help);
  /// A whole number in [min, max].
  void Int(std::string_view name, int32_t min, int32_t max, int32_t* target, std::string_view help);
  /// Bytes: a whole number with an optional suffix KiB, MiB, GiB or TiB.
  void Bytes(std::string_view name, int64_t min, int64_t* target, std::string_view help);
  /// A non-negative duration such as 500ms, 30s or 1m30s.
  void Duration(std::string_view name, absl::Duration* target, std::string_view help);
  void Switch(std::string_view name, bool* target, std::string_view help);

  absl::Status Parse(std::span<const std::string_view> args) const;

  /// One paragraph a flag, under its section, with its default.
  std::string Help() const;

 private:
  struct Flag {
    std::string name;        // empty: a section title
    std::string value_name;  // empty: a switch
    std::string default_value;
    std::string help;
    std::function<absl::Status(std::string_view value)> set;
  };

  const Flag* Find(std::string_view name) const;
  absl::Status ParseOne(std::span<const std::string_view> args, size_t* next) const;

  std::vector<Flag> flags_;
};

/// "8GiB" -> 8589934592. INVALID_ARGUMENT naming the text if it is no size.
absl::Status ParseBytes(std::string_view text, int64_t* bytes);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_FLAG_TABLE_H_
