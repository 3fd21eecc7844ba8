#include "engine/models/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace parallax {

namespace {

double Llama3Frequency(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = static_cast<double>(rope.original_max_position_embeddings) / wavelength;
  const double keep = std::clamp(
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
  return keep * frequency + (1 - keep) * frequency / rope.factor;
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double base =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (rope.scaling) {
      case RopeScaling::kNone:
        frequencies[i] = base;
        break;
      case RopeScaling::kLinear:
        frequencies[i] = base / rope.factor;
        break;
      case RopeScaling::kLlama3:
        frequencies[i] = Llama3Frequency(rope, base);
        break;
    }
  }
  return frequencies;
}

}  // namespace parallax
