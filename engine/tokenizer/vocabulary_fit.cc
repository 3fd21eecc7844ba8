#include "engine/tokenizer/vocabulary_fit.h"

#include <optional>

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

absl::Status CheckId(const char* what, std::optional<int32_t> id, int64_t vocab_size) {
  if (!id.has_value() || *id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " = ", *id, ": config.json's vocab_size ",
                                                 vocab_size, " has no row for it"));
}

}  // namespace

absl::Status CheckSpecialIds(const Tokenizer& tokenizer, int64_t vocab_size) {
  if (absl::Status s = CheckId("eos token id", tokenizer.eos_id(), vocab_size); !s.ok()) return s;
  if (absl::Status s = CheckId("bos token id", tokenizer.bos_id(), vocab_size); !s.ok()) return s;
  const absl::StatusOr<std::vector<int32_t>> added =
      tokenizer.Encode("", /*add_special_tokens=*/true);
  if (!added.ok()) return added.status();
  for (const int32_t id : *added) {
    if (absl::Status s = CheckId("token id of every prompt", id, vocab_size); !s.ok()) return s;
  }
  return absl::OkStatus();
}

std::vector<uint32_t> SampleableIds(const Tokenizer& tokenizer, int32_t limit) {
  std::vector<uint32_t> mask((static_cast<size_t>(limit) + 31) / 32);
  int32_t defined = 0;
  for (int32_t id = 0; id < limit; ++id) {
    if (!tokenizer.IsValidId(id)) continue;
    mask[id / 32] |= uint32_t{1} << (id % 32);
    ++defined;
  }
  if (defined == limit) mask.clear();
  return mask;
}

}  // namespace parallax
