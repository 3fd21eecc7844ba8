// AddedTokenSplitter: finds the tokens that were added to a vocabulary (control tokens, roles,
// tool markers) in a text, before anything else looks at it.
//
// Leftmost match first, the longest of those that start there. The meaning of the flags is that
// of Hugging Face's `tokenizers`.
//
// Thread safety: immutable.
#ifndef PARALLAX_ENGINE_TOKENIZER_ADDED_TOKENS_H_
#define PARALLAX_ENGINE_TOKENIZER_ADDED_TOKENS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/tokenizer/byte_trie.h"

namespace parallax {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character stands next to it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalised text, not in the text as given
  bool special = false;
};

class AddedTokenSplitter {
 public:
  using TextFunction = absl::FunctionRef<absl::Status(std::string_view)>;
  using TokenFunction = absl::FunctionRef<void(int32_t id)>;

  /// REQUIRES: contents are not empty and differ from each other.
  explicit AddedTokenSplitter(std::vector<AddedToken> tokens);

  /// Calls `on_token` for each added token and `on_text` for each stretch between them, in
  /// order; stops at the first error `on_text` returns. REQUIRES: valid UTF-8.
  absl::Status Split(std::string_view text, TextFunction on_text, TokenFunction on_token) const;

 private:
  struct Match {
    size_t begin;
    size_t end;
    const AddedToken* token;
  };

  std::optional<Match> Find(std::string_view text, size_t from) const;
  const AddedToken* LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;
  std::vector<int32_t> token_at_node_;  // index into tokens_, or -1
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_ADDED_TOKENS_H_
