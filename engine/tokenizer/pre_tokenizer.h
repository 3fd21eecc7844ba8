// PreTokenizer: cuts text into the words that merges never cross.
//
// A pipeline of stages, each applied to every piece the one before it made; tokenizer.json's
// Split, Digits and ByteLevel are built from the two kinds below.
//
// Thread safety: immutable.
#ifndef PARALLAX_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define PARALLAX_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/tokenizer/split_regex.h"

namespace parallax {

struct PreTokenizerStage {
  /// Each match is a piece; so is each stretch between matches, unless it is dropped.
  /// Null: the stage puts a space before a piece that does not start with one.
  std::unique_ptr<const SplitRegex> split;
  bool drop_unmatched = false;
};

class PreTokenizer {
 public:
  using WordFunction = absl::FunctionRef<void(std::string_view)>;

  explicit PreTokenizer(std::vector<PreTokenizerStage> stages) : stages_(std::move(stages)) {}

  /// Calls `word` with the words of `text` in order; none is empty.
  /// REQUIRES: valid UTF-8. INVALID_ARGUMENT: a split pattern reached its limits.
  absl::Status Split(std::string_view text, WordFunction word) const;

 private:
  std::vector<PreTokenizerStage> stages_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
