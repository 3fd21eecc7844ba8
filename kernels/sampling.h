// Sampling one token per row of logits.
//
// Order of the transforms, as in vLLM:
//   logit bias -> repetition, presence, frequency penalties -> banned ids and mask
//   -> temperature -> min_p -> top_k -> top_p -> draw.
// * repetition_penalty R applies once to every token of prompt or output: l > 0 ? l/R : l*R.
// * frequency_penalty F and presence_penalty P apply to output tokens: l -= F*count + P.
// * temperature below kGreedyTemperature is greedy: the largest transformed logit, lowest id
//   on ties.
// * min_p keeps tokens with p >= min_p * max p. top_k keeps the k most likely. top_p keeps
//   the shortest run of most likely tokens whose mass, renormalised over what min_p and top_k
//   left, reaches top_p. Ties rank the lower id first.
// * The draw inverts the cumulative distribution of what is left at u = Uniform(seed,
//   choice_index, position), from Philox4x32-10 (kernels/philox.h). So a row's token depends
//   on its own logits and parameters alone, bit for bit.
//
// Logprobs are those of the raw logits: log-softmax over all columns, before bias, penalties
// and temperature. Ids >= token_limit are never sampled or listed.
//
// Thread safety: as Stream. Nothing is allocated.
// Errors: KernelError for shapes, dtypes and parameters out of range. What the data bring -
// NaN logits, no token left - is a status of that row only.
#ifndef PARALLAX_KERNELS_SAMPLING_H_
#define PARALLAX_KERNELS_SAMPLING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/logprobs.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

inline constexpr float kGreedyTemperature = 1e-5f;

struct LogitBias {
  int32_t token = 0;
  float bias = 0.0f;  // finite
};

// A token that occurred in the prompt or the output, for the penalties.
struct TokenCount {
  int32_t token = 0;
  int32_t output_count = 0;  // occurrences in the output; 0 = in the prompt only
};

struct SamplingRow {
  float temperature = 1.0f;         // >= 0; 0 = greedy
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0f;               // in (0, 1]; 1 = off
  float min_p = 0.0f;               // in [0, 1]; 0 = off
  float repetition_penalty = 1.0f;  // > 0; 1 = off
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;

  std::span<const LogitBias> logit_bias;     // each token at most once
  std::span<const TokenCount> token_counts;  // each token at most once; any order
  std::span<const int32_t> banned_ids;       // e.g. stop tokens before min_tokens
  std::span<const uint32_t> allowed_mask;    // bit i of word w allows 32w + i; empty = all

  uint64_t seed = 0;
  uint32_t choice_index = 0;  // which of the request's n choices
  uint32_t position = 0;      // of the sampled token in its sequence

  int32_t num_top_logprobs = 0;  // <= kMaxTopLogprobs
};

enum class SampleStatus : uint8_t {
  kOk,
  kNan,         // a raw logit was NaN or +inf or all were -inf, or a transform overflowed
  kNoTokenLeft  // bans and masks left nothing to sample
};

struct SampleResult {
  SampleStatus status = SampleStatus::kOk;
  int32_t token = -1;    // -1 unless kOk
  float logprob = 0.0f;  // of `token`, from the raw logits
  int top_count = 0;
  std::array<TokenLogprob, kMaxTopLogprobs> top = {};
};

struct SampleParams {
  ConstTensorView logits;             // [rows, vocab] float32
  std::span<const SamplingRow> rows;  // [rows]
  int64_t token_limit = 0;            // ids >= this are outside the tokenizer
  std::span<SampleResult> results;    // [rows]
  std::span<std::byte> workspace;     // SampleWorkspaceBytes(), aligned for float
};

size_t SampleWorkspaceBytes(int64_t vocab_size, const Stream& stream);

void Sample(const SampleParams& params, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_SAMPLING_H_
