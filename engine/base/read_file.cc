#include "engine/base/read_file.h"

#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace parallax {

absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path, uintmax_t max_bytes) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) {
    const std::string what = absl::StrCat(path.string(), ": ", error.message());
    return error == std::errc::no_such_file_or_directory ? absl::NotFoundError(what)
                                                         : absl::InvalidArgumentError(what);
  }
  if (size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": ", size, " bytes, at most ", max_bytes, " are read"));
  }
  std::string contents(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(contents.data(), static_cast<std::streamsize>(size))) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": cannot be read"));
  }
  return contents;
}

}  // namespace parallax
