#include "engine/tokenizer/byte_level_bpe.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/unicode_nfc.h"
#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

std::vector<AddedToken> SelectAddedTokens(const ByteLevelBpeParts& parts, bool normalized) {
  std::vector<AddedToken> selected;
  for (AddedToken token : parts.added_tokens) {
    if (token.normalized != normalized) continue;
    if (normalized && parts.nfc) token.content = ToNfc(token.content);
    selected.push_back(std::move(token));
  }
  return selected;
}

}  // namespace

ByteLevelBpeTokenizer::ByteLevelBpeTokenizer(ByteLevelBpeParts parts)
    : Tokenizer(std::move(parts.tokens), LeadingSpace::kKeep, parts.bos_id, parts.eos_id),
      model_(std::move(parts.model)),
      pre_tokenizer_(std::move(parts.pre_tokenizer)),
      nfc_(parts.nfc),
      verbatim_added_tokens_(SelectAddedTokens(parts, /*normalized=*/false)),
      normalized_added_tokens_(SelectAddedTokens(parts, /*normalized=*/true)),
      prefix_(std::move(parts.prefix)),
      suffix_(std::move(parts.suffix)) {}

absl::StatusOr<std::vector<int32_t>> ByteLevelBpeTokenizer::Encode(std::string_view text,
                                                                   bool add_special_tokens) const {
  if (const std::optional<size_t> bad = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", *bad));
  }
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = prefix_;
  if (absl::Status status = EncodeText(text, &ids); !status.ok()) return status;
  if (add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

absl::Status ByteLevelBpeTokenizer::EncodeText(std::string_view text,
                                               std::vector<int32_t>* ids) const {
  BpeModel::Workspace workspace;
  const auto add_token = [&](int32_t id) { ids->push_back(id); };
  const auto add_word = [&](std::string_view word) { model_.Encode(word, &workspace, ids); };
  const auto add_plain = [&](std::string_view plain) {
    return pre_tokenizer_.Split(plain, add_word);
  };
  const auto add_normalized = [&](std::string_view normalized) {
    return normalized_added_tokens_.Split(normalized, add_plain, add_token);
  };
  const auto add_verbatim = [&](std::string_view verbatim) {
    if (!nfc_ || IsTriviallyNfc(verbatim)) return add_normalized(verbatim);
    return add_normalized(ToNfc(verbatim));
  };
  return verbatim_added_tokens_.Split(text, add_verbatim, add_token);
}

}  // namespace parallax
