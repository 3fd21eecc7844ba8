#include "engine/tokenizer/tokenizer_config.h"

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "engine/tokenizer/json_cursor.h"

namespace parallax {
namespace {

// A token is written as its text or as an object with the text in "content".
std::optional<std::string> ReadToken(const JsonCursor& token) {
  if (token.IsNull()) return std::nullopt;
  return token.IsObject() ? token.Field("content").Text() : token.Text();
}

std::optional<bool> ReadFlag(const JsonCursor& flag) {
  if (flag.IsNull()) return std::nullopt;
  return flag.Bool();
}

void ReadAddedTokens(const JsonCursor& decoder, TokenizerConfig* config) {
  if (decoder.IsNull()) return;
  if (!decoder.IsObject()) return decoder.Malformed("is not an object");
  for (const auto& [key, value] : decoder.value().items()) {
    const JsonCursor token = decoder.Field(key.c_str());
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0) return token.Malformed("is not under a token id");
    config->added_tokens.emplace_back(id, token.Field("content").Text());
  }
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json_text) {
  const absl::StatusOr<nlohmann::json> document = ParseJsonObjectText(json_text);
  if (!document.ok()) return document.status();
  absl::Status status;
  const JsonCursor root(*document, "$", &status);
  TokenizerConfig config;
  config.bos_token = ReadToken(root.Field("bos_token"));
  config.eos_token = ReadToken(root.Field("eos_token"));
  config.add_bos_token = ReadFlag(root.Field("add_bos_token"));
  config.add_eos_token = ReadFlag(root.Field("add_eos_token"));
  ReadAddedTokens(root.Field("added_tokens_decoder"), &config);
  if (!status.ok()) return status;
  return config;
}

}  // namespace parallax
