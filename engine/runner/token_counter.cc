#include "engine/runner/token_counter.h"

#include <bit>

namespace parallax {
namespace {

// At most half full, so that a probe is short.
size_t TableSize(size_t distinct_tokens) { return std::bit_ceil(2 * distinct_tokens + 2); }

}  // namespace

size_t TokenCounter::BytesFor(size_t distinct_tokens) {
  return distinct_tokens * sizeof(kernels::TokenCount) +
         TableSize(distinct_tokens) * sizeof(int32_t);
}

void TokenCounter::Reserve(size_t distinct_tokens) {
  counts_.reserve(distinct_tokens);
  table_.reserve(TableSize(distinct_tokens));
}

void TokenCounter::Reset(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                         size_t distinct_tokens) {
  Clear();
  counts_.reserve(distinct_tokens);
  table_.assign(TableSize(distinct_tokens), -1);
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
