// tokenizer.json of Hugging Face's `tokenizers`, as far as byte-level BPE goes.
//
// Supported, by JSON path:
//   $.model           BPE without dropout, subword prefix, word suffix or byte fallback;
//                     ignore_merges; merges as "a b" or ["a", "b"]
//   $.added_tokens    all flags
//   $.normalizer      null, NFC, Sequence of these
//   $.pre_tokenizer   ByteLevel, or a Sequence of Split, Digits and, last, ByteLevel
//   $.post_processor  null, ByteLevel, TemplateProcessing (its "single"), Sequence of these
//   $.decoder         ByteLevel
// Anything else is refused with its path. $.truncation and $.padding are for training batches
// and have no effect, as the reference's users reset them for each call too.
//
// Thread safety: pure functions of their input.
#ifndef PARALLAX_ENGINE_TOKENIZER_TOKENIZER_JSON_H_
#define PARALLAX_ENGINE_TOKENIZER_TOKENIZER_JSON_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/json_cursor.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_config.h"

namespace parallax {

/// UNIMPLEMENTED: a part that is not supported. INVALID_ARGUMENT: malformed or contradictory.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json_text,
                                                              const TokenizerConfig& config = {});

/// Highest vocabulary size that is read; larger ids are taken for corruption.
inline constexpr int32_t kMaxVocabSize = 1 << 20;

/// Special tokens around a text.
struct TokenTemplate {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

// The parts of the pipeline around the model (tokenizer_json_pipeline.cc). Failures go to the
// cursor's status.

/// Whether $.normalizer asks for NFC.
bool ReadNormalizer(const JsonCursor& normalizer);

/// The stages that $.pre_tokenizer describes.
std::vector<PreTokenizerStage> ReadPreTokenizer(const JsonCursor& pre_tokenizer);

TokenTemplate ReadPostProcessor(const JsonCursor& post_processor);

/// Checks that $.decoder is the byte-level one.
void ReadDecoder(const JsonCursor& decoder);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_TOKENIZER_JSON_H_
