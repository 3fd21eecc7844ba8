#include "engine/cuda/preparation_status.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace parallax {

absl::Status PreparationStatus(const char* activity, const kernels::KernelError& error) {
  const std::string what = absl::StrCat(activity, ": ", error.what());
  if (dynamic_cast<const kernels::OutOfMemoryError*>(&error) != nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what,
                     ": lower the share of GPU memory (the size of the KV cache where that is "
                     "given), the number of sequences or the batched tokens"));
  }
  if (dynamic_cast<const kernels::MissingLibraryError*>(&error) != nullptr) {
    return absl::FailedPreconditionError(what);
  }
  return absl::InternalError(what);
}

}  // namespace parallax
