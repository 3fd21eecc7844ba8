// How a tokenizer and a model's vocabulary fit together: the one has ids, the other has rows.
//
// A tokenizer with fewer ids than the embedding has rows is common (padding). One with more is
// served too, as long as the ids that the server itself uses have rows.
//
// Thread safety: pure functions; linear in the vocabulary.
#ifndef PARALLAX_ENGINE_TOKENIZER_VOCABULARY_FIT_H_
#define PARALLAX_ENGINE_TOKENIZER_VOCABULARY_FIT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax {

/// INVALID_ARGUMENT, naming the id, if BOS, EOS or an id that encoding adds to every prompt is
/// not below `vocab_size`: every prompt would be refused, or no stop could be held back.
absl::Status CheckSpecialIds(const Tokenizer& tokenizer, int64_t vocab_size);

/// Which ids below `limit` may be sampled: bit i % 32 of word i / 32. Empty if all may, as
/// the tokenizer defines each of them.
std::vector<uint32_t> SampleableIds(const Tokenizer& tokenizer, int32_t limit);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_VOCABULARY_FIT_H_
