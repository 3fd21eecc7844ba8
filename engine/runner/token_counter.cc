#include "engine/runner/token_counter.h"

#include <bit>

namespace parallax {

void TokenCounter::Reset(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                         size_t max_output_tokens) {
  const size_t most_entries = prompt.size() + max_output_tokens;
  Clear();
  counts_.reserve(most_entries);
  table_.assign(std::bit_ceil(2 * most_entries + 2), -1);
  for (const int32_t token : prompt) Entry(token);
  for (const int32_t token : generated) AddOutput(token);
}

void TokenCounter::Clear() {
  counts_.clear();
  table_.clear();
}

kernels::TokenCount& TokenCounter::Entry(int32_t token) {
  const size_t mask = table_.size() - 1;
  // Fibonacci hashing spreads the runs of neighbouring ids that byte-level vocabularies have.
  size_t slot = (static_cast<uint64_t>(static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15u) >> 32;
  for (slot &= mask; table_[slot] >= 0; slot = (slot + 1) & mask) {
    if (counts_[table_[slot]].token == token) return counts_[table_[slot]];
  }
  table_[slot] = static_cast<int32_t>(counts_.size());
  return counts_.emplace_back(kernels::TokenCount{token, 0});
}

}  // namespace parallax
