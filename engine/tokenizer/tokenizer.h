// Tokenizer: text to token ids and back.
//
// Two kinds exist: SentencePiece models (tokenizer.model) and byte-level BPE in Hugging Face's
// format (tokenizer.json of the GPT-2, Qwen and Llama-3 kind). Both give the ids that the
// reference packages `sentencepiece` and `tokenizers` give.
//
// Thread safety: immutable once loaded; every method may be called from any thread.
//
// Not covered, on purpose: chat templates; `clean_up_tokenization_spaces` (an after-the-fact
// edit of the text that streaming cannot do); truncation and padding settings, which belong to
// training batches (the server never cuts a prompt).
#ifndef PARALLAX_ENGINE_TOKENIZER_TOKENIZER_H_
#define PARALLAX_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/token_table.h"

namespace parallax {

/// What becomes of a space-marked token at the very start of a text. SentencePiece models
/// trained with a dummy prefix encode "Hello" as "▁Hello", so the first space is not text.
enum class LeadingSpace {
  kKeep,           // every space is text
  kDropOnce,       // the first token loses its mark
  kDropUntilText,  // each token loses its mark until one gives text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Token ids of `text`. `add_special_tokens` adds what the model wants around a prompt (BOS,
  /// EOS); without it the ids can be joined to others. Special tokens spelt out in the text are
  /// recognised by byte-level BPE and are plain text to SentencePiece.
  /// INVALID_ARGUMENT: `text` is not UTF-8, or splitting it exceeds the regex engine's limits.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      bool add_special_tokens) const = 0;

  /// Text of `ids` as one whole, valid UTF-8: ill-formed bytes become U+FFFD. The same text as
  /// an IncrementalDetokenizer gives piece by piece. Ids that are not valid give nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// One past the highest id. Ids below it may still be invalid (holes).
  int32_t VocabSize() const { return tokens_.size(); }

  /// False for ids the tokenizer does not define, such as the padding rows of an embedding:
  /// they must never be sampled.
  bool IsValidId(int32_t id) const { return tokens_.IsValid(id); }

  /// Special tokens mark structure (BOS, EOS, roles) rather than text.
  bool IsSpecial(int32_t id) const { return tokens_.IsSpecial(id); }

  /// The bytes the token adds when it continues a text: possibly part of a character, possibly
  /// none. Special tokens have their name, e.g. "</s>". Lives as long as the tokenizer.
  std::string_view TokenBytes(int32_t id) const { return tokens_.Bytes(id); }

  /// Whether LeadingSpace applies to the token at the start of a text.
  bool StartsWithSpaceMark(int32_t id) const { return tokens_.StartsWithSpaceMark(id); }
  LeadingSpace leading_space() const { return leading_space_; }

  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }

 protected:
  Tokenizer(TokenTable tokens, LeadingSpace leading_space, std::optional<int32_t> bos_id,
            std::optional<int32_t> eos_id);

 private:
  const TokenTable tokens_;
  const LeadingSpace leading_space_;
  const std::optional<int32_t> bos_id_;
  const std::optional<int32_t> eos_id_;
};

/// The file that defines a model folder's tokenizer: tokenizer.model if there is one, else
/// tokenizer.json; empty if there is neither.
std::filesystem::path TokenizerFile(const std::filesystem::path& model_dir);

/// Loads the tokenizer of a model folder from its TokenizerFile; tokenizer_config.json, where present, names BOS and EOS and says whether to add them.
/// NOT_FOUND: neither file exists (such a model serves token ids only). INVALID_ARGUMENT or
/// UNIMPLEMENTED: a file is corrupt, or asks for something not supported; the message names
/// the file and the place in it.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::filesystem::path& model_dir);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_TOKENIZER_H_
