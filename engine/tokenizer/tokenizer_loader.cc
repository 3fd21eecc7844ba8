#include <string>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/read_file.h"
#include "engine/tokenizer/sentencepiece_tokenizer.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_config.h"
#include "engine/tokenizer/tokenizer_json.h"

namespace parallax {
namespace {

namespace fs = std::filesystem;

// The largest tokenizers of today have 35 MB.
constexpr uintmax_t kMaxFileBytes = uintmax_t{256} << 20;

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::Status WithFile(const absl::Status& status, const fs::path& path) {
  return absl::Status(status.code(),
                      absl::StrCat(path.string(), ": ", std::string(status.message())));
}

absl::StatusOr<TokenizerConfig> LoadConfig(const fs::path& path) {
  if (!Exists(path)) return TokenizerConfig{};
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxFileBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<TokenizerConfig> config = ParseTokenizerConfig(*text);
  if (!config.ok()) return WithFile(config.status(), path);
  return config;
}

// Tokens that only tokenizer_config.json knows would be missed in prompts and have no text.
absl::Status CheckAddedTokens(const Tokenizer& tokenizer, const TokenizerConfig& config) {
  for (const auto& [id, content] : config.added_tokens) {
    if (tokenizer.IsValidId(id)) continue;
    return absl::UnimplementedError(
        absl::StrCat("tokenizer_config.json: $.added_tokens_decoder.", id, " = \"", content,
                     "\": tokens that the tokenizer's own file lacks are not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

fs::path TokenizerFile(const fs::path& model_dir) {
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    if (Exists(model_dir / name)) return model_dir / name;
  }
  return {};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const fs::path& model_dir) {
  const fs::path path = TokenizerFile(model_dir);
  if (path.empty()) {
    return absl::NotFoundError(
        absl::StrCat(model_dir.string(), ": neither tokenizer.model nor tokenizer.json"));
  }
  const absl::StatusOr<TokenizerConfig> config = LoadConfig(model_dir / "tokenizer_config.json");
  if (!config.ok()) return config.status();
  const absl::StatusOr<std::string> contents = ReadWholeFile(path, kMaxFileBytes);
  if (!contents.ok()) return contents.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      path.extension() == ".model" ? SentencePieceTokenizer::Create(*contents, *config)
                                   : ParseTokenizerJson(*contents, *config);
  if (!tokenizer.ok()) return WithFile(tokenizer.status(), path);
  if (absl::Status status = CheckAddedTokens(**tokenizer, *config); !status.ok()) {
    return WithFile(status, model_dir);
  }
  return tokenizer;
}

}  // namespace parallax
