// Counts of the tokens in one sequence's prompt and output: what the sampler's penalties read.
//
// Open addressing over a dense list, so that the sampler gets a contiguous span and a step
// costs O(1). Reset allocates unless Reserve did; AddOutput never does.
//
// Thread safety: none; owned by a model runner's slot.
#ifndef PARALLAX_ENGINE_RUNNER_TOKEN_COUNTER_H_
#define PARALLAX_ENGINE_RUNNER_TOKEN_COUNTER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling.h"

namespace parallax {

class TokenCounter {
 public:
  /// Memory of a counter for this many distinct tokens.
  static size_t BytesFor(size_t distinct_tokens);
  /// Takes that memory now. It is not touched before it is needed.
  void Reserve(size_t distinct_tokens);

  /// Starts over with these tokens. REQUIRES: never more than `distinct_tokens` different ones,
  /// outputs to come included.
  void Reset(std::span<const int32_t> prompt, std::span<const int32_t> generated,
             size_t distinct_tokens);
  void AddOutput(int32_t token) { ++Entry(token).output_count; }
  void Clear();

  /// Every distinct token once, in order of first occurrence.
  std::span<const kernels::TokenCount> counts() const { return counts_; }

 private:
  kernels::TokenCount& Entry(int32_t token);

  std::vector<kernels::TokenCount> counts_;
  std::vector<int32_t> table_;  // index into counts_, or -1; the size is a power of two
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_TOKEN_COUNTER_H_
