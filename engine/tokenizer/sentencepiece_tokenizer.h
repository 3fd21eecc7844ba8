// SentencePieceTokenizer: unigram and BPE models of Google's SentencePiece (tokenizer.model).
//
// Ids are the library's own. BOS and EOS are added as tokenizer_config.json says; where it is
// silent, as Llama does: BOS if the model has one, no EOS.
//
// A control piece spelt out in a text ("</s>") is text, not a token, as in the library.
//
// Cost: the library's. It joins neighbouring unknown characters in quadratic time, which only
// models without byte fallback meet: 1.4 s for 200 KB of nothing but such characters.
//
// Thread safety: immutable.
#ifndef PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/sentencepiece_model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_config.h"

namespace parallax {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// `serialized`: the contents of a tokenizer.model file.
  /// INVALID_ARGUMENT: it is no model, or `config` names tokens it does not have.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(std::string_view serialized,
                                                           const TokenizerConfig& config = {});

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              bool add_special_tokens) const override;

 private:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model, std::optional<int32_t> bos_id,
                         std::optional<int32_t> eos_id, bool add_bos, bool add_eos);

  const std::unique_ptr<SentencePieceModel> model_;
  const bool add_bos_;
  const bool add_eos_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
