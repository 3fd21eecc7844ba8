#include "kernels/cpu/logit_transforms.h"

#include <cstddef>
#include <limits>

namespace parallax::kernels::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void Penalize(const SamplingRow& row, const TokenCount& entry, float& logit) {
  logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (entry.output_count == 0) return;
  logit -= row.frequency_penalty * static_cast<float>(entry.output_count);
  logit -= row.presence_penalty;
}

void ApplyMask(std::span<const uint32_t> mask, std::span<float> logits) {
  constexpr size_t kBits = 32;
  for (size_t begin = 0; begin < logits.size(); begin += kBits) {
    const uint32_t word = mask[begin / kBits];
    if (word == ~uint32_t{0}) continue;
    for (size_t bit = 0; bit < kBits && begin + bit < logits.size(); ++bit) {
      if ((word >> bit & 1) == 0) logits[begin + bit] = kNever;
    }
  }
}

}  // namespace

void TransformLogits(const SamplingRow& row, std::span<float> logits) {
  const auto inside = [&](int32_t token) { return static_cast<size_t>(token) < logits.size(); };
  for (const LogitBias& entry : row.logit_bias) {
    if (inside(entry.token)) logits[entry.token] += entry.bias;
  }
  for (const TokenCount& entry : row.token_counts) {
    if (inside(entry.token)) Penalize(row, entry, logits[entry.token]);
  }
  for (int32_t token : row.banned_ids) {
    if (inside(token)) logits[token] = kNever;
  }
  if (!row.allowed_mask.empty()) ApplyMask(row.allowed_mask, logits);
}

}  // namespace parallax::kernels::cpu
