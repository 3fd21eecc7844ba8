// tokenizer_config.json: the fields that change token ids.
//
// Thread safety: plain data.
#ifndef PARALLAX_ENGINE_TOKENIZER_TOKENIZER_CONFIG_H_
#define PARALLAX_ENGINE_TOKENIZER_TOKENIZER_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace parallax {

/// Unset fields leave the decision to the tokenizer's own file.
struct TokenizerConfig {
  std::optional<std::string> bos_token = std::nullopt;
  std::optional<std::string> eos_token = std::nullopt;
  std::optional<bool> add_bos_token = std::nullopt;
  std::optional<bool> add_eos_token = std::nullopt;
  /// added_tokens_decoder: the tokens the model was trained with beside the vocabulary.
  std::vector<std::pair<int32_t, std::string>> added_tokens = {};
};

/// INVALID_ARGUMENT naming the JSON path and the value.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json_text);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_TOKENIZER_CONFIG_H_
