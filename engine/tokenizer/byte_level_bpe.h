// ByteLevelBpeTokenizer: byte-level BPE of the GPT-2, Qwen and Llama-3 kind.
//
// Encode: added tokens of the text as given -> NFC -> added tokens of the normalised text ->
// words (PreTokenizer) -> merges (BpeModel) -> special tokens around it all. Built by
// ParseTokenizerJson (tokenizer_json.h).
//
// Thread safety: immutable.
#ifndef PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_BPE_H_
#define PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_BPE_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe_model.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax {

/// Everything a byte-level BPE tokenizer is made of.
struct ByteLevelBpeParts {
  TokenTable tokens;
  BpeModel model;
  PreTokenizer pre_tokenizer;
  bool nfc = false;
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> prefix;  // special tokens before a text
  std::vector<int32_t> suffix;  // and behind it
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
};

class ByteLevelBpeTokenizer final : public Tokenizer {
 public:
  explicit ByteLevelBpeTokenizer(ByteLevelBpeParts parts);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              bool add_special_tokens) const override;

 private:
  absl::Status EncodeText(std::string_view text, std::vector<int32_t>* ids) const;

  const BpeModel model_;
  const PreTokenizer pre_tokenizer_;
  const bool nfc_;
  const AddedTokenSplitter verbatim_added_tokens_;
  const AddedTokenSplitter normalized_added_tokens_;
  const std::vector<int32_t> prefix_;
  const std::vector<int32_t> suffix_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_BPE_H_
