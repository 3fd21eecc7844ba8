// WordTokenizer: a vocabulary spelt out by the test.
//
// Ids 0 (<s>) and 1 (</s>, the EOS) are special; id 2 + i is words[i], bytes as they stand.
#ifndef PARALLAX_TESTS_ENGINE_WORD_TOKENIZER_H_
#define PARALLAX_TESTS_ENGINE_WORD_TOKENIZER_H_

#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace parallax {

class WordTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kBos = 0;
  static constexpr int32_t kEos = 1;
  static constexpr int32_t kFirstWord = 2;

  explicit WordTokenizer(const std::vector<std::string>& words,
                         LeadingSpace leading_space = LeadingSpace::kKeep)
      : Tokenizer(Table(words), leading_space, kBos, kEos) {}

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
    return absl::UnimplementedError("tests of the engine pass token ids");
  }

 private:
  static TokenTable Table(const std::vector<std::string>& words) {
    std::vector<TokenEntry> entries = {{"<s>", true, true, false}, {"</s>", true, true, false}};
    for (const std::string& word : words) {
      entries.push_back({word, true, false, word.starts_with(' ')});
    }
    return TokenTable(entries);
  }
};

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_WORD_TOKENIZER_H_
