#include "engine/tokenizer/pre_tokenizer.h"

#include <optional>
#include <string>

#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

// One pass over a text: a piece goes through all its stages before the next one is looked for,
// so that no list of pieces is ever made.
class Pass {
 public:
  Pass(const std::vector<PreTokenizerStage>& stages, PreTokenizer::WordFunction word)
      : stages_(stages), word_(word) {
    matchers_.resize(stages.size());
    for (size_t i = 0; i < stages.size(); ++i) {
      if (stages[i].split != nullptr) matchers_[i].emplace(*stages[i].split);
    }
  }

  absl::Status Run(size_t stage, std::string_view piece) {
    if (piece.empty()) return absl::OkStatus();
    if (stage == stages_.size()) {
      word_(piece);
      return absl::OkStatus();
    }
    if (stages_[stage].split != nullptr) return RunSplit(stage, piece);
    if (piece.starts_with(' ')) return Run(stage + 1, piece);
    std::string prefixed(1, ' ');
    prefixed += piece;
    return Run(stage + 1, prefixed);
  }

 private:
  absl::Status RunSplit(size_t stage, std::string_view text) {
    size_t piece_begin = 0;
    size_t search_from = 0;
    while (search_from <= text.size()) {
      const absl::StatusOr<std::optional<TextSpan>> found =
          matchers_[stage]->Find(text, search_from);
      if (!found.ok()) return found.status();
      if (!found->has_value()) break;
      const auto [begin, end] = **found;
      absl::Status status = RunUnmatched(stage, text.substr(piece_begin, begin - piece_begin));
      if (status.ok()) status = Run(stage + 1, text.substr(begin, end - begin));
      if (!status.ok()) return status;
      piece_begin = end;
      search_from = end > begin ? end : NextCharacter(text, end);
    }
    return RunUnmatched(stage, text.substr(piece_begin));
  }

  absl::Status RunUnmatched(size_t stage, std::string_view piece) {
    return stages_[stage].drop_unmatched ? absl::OkStatus() : Run(stage + 1, piece);
  }

  // Where to search on after an empty match; past the end of the text, if at its end.
  static size_t NextCharacter(std::string_view text, size_t at) {
    return at + (at < text.size() ? DecodeUtf8(text.substr(at)).length : 1);
  }

  const std::vector<PreTokenizerStage>& stages_;
  PreTokenizer::WordFunction word_;
  std::vector<std::optional<SplitRegex::Matcher>> matchers_;  // [stage], empty without a pattern
};

}  // namespace

absl::Status PreTokenizer::Split(std::string_view text, WordFunction word) const {
  return Pass(stages_, word).Run(0, text);
}

}  // namespace parallax
