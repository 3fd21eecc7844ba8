// Log-probabilities of given tokens, with the top k beside them, from logits that arrive in
// vocabulary slices: prompt log-probabilities in bounded memory.
//
// Per row a LogprobState holds the running maximum and sum of exp(logit - max) over the
// columns seen, the target's logit, and the largest logits in order. Slices of one row must
// be disjoint and in ascending column order; at the end
//   logprob(t) = logit(t) - max - log(sum).
//
// Thread safety: as Stream. Nothing is allocated. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_LOGPROBS_H_
#define PARALLAX_KERNELS_LOGPROBS_H_

#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

inline constexpr int kMaxTopLogprobs = 20;

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0.0f;

  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

struct LogprobState {
  int32_t target = -1;  // token whose logprob is wanted; -1 = only the top
  int num_top = 0;      // how many of the largest to keep, <= kMaxTopLogprobs

  // Filled by AccumulateLogprobs.
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0.0;
  float target_logit = -std::numeric_limits<float>::infinity();
  bool has_nan = false;                                // a logit was NaN or +inf
  int top_count = 0;                                   // entries of `top` filled so far
  std::array<TokenLogprob, kMaxTopLogprobs> top = {};  // logits here, descending, lower id first
};

struct LogprobResult {
  float target_logprob = 0.0f;
  bool has_nan = false;
  int top_count = 0;
  std::array<TokenLogprob, kMaxTopLogprobs> top = {};  // descending, lower id first on ties
};

// Folds logits [rows, width] float32, the columns column_begin .. column_begin + width - 1 of
// the vocabulary, into states [rows]. Ids >= token_limit count in the sum but are never listed
// in the top.
void AccumulateLogprobs(const ConstTensorView& logits, int64_t column_begin, int64_t token_limit,
                        std::span<LogprobState> states, const Stream& stream);

// Reads the result off a state that has seen every column.
LogprobResult FinishLogprobs(const LogprobState& state);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_LOGPROBS_H_
