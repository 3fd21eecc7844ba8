// ReadWholeFile: a small file of a model folder, as one string.
//
// Thread safety: any thread.
#ifndef PARALLAX_ENGINE_BASE_READ_FILE_H_
#define PARALLAX_ENGINE_BASE_READ_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace parallax {

/// NOT_FOUND: there is no such file. INVALID_ARGUMENT: it cannot be read, is no file, or has
/// more than `max_bytes`. Messages begin with the path.
absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path, uintmax_t max_bytes);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_BASE_READ_FILE_H_
