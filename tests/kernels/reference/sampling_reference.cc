#include "tests/kernels/reference/sampling_reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace parallax::reference {
namespace {

constexpr double kNever = -HUGE_VAL;

double Max(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

std::vector<double> Softmax(std::vector<double> values) {
  const double max = Max(values);
  double sum = 0.0;
  for (double& value : values) sum += value = std::exp(value - max);
  for (double& value : values) value /= sum;
  return values;
}

}  // namespace

std::vector<double> TransformedLogits(const std::vector<float>& logits, const SamplingRule& rule) {
  std::vector<double> result(logits.begin(), logits.end());
  for (const auto& [token, bias] : rule.bias) result[token] += bias;
  for (int token = 0; token < static_cast<int>(result.size()); ++token) {
    const auto count = rule.output_counts.find(token);
    const bool in_output = count != rule.output_counts.end();
    if (!in_output && !rule.prompt_tokens.contains(token)) continue;
    result[token] *= result[token] > 0 ? 1 / rule.repetition_penalty : rule.repetition_penalty;
    if (!in_output) continue;
    result[token] -= rule.frequency_penalty * count->second + rule.presence_penalty;
  }
  for (int token : rule.banned) result[token] = kNever;
  for (size_t token = rule.token_limit; token < result.size(); ++token) result[token] = kNever;
  return result;
}

std::vector<double> SamplingDistribution(const std::vector<float>& logits,
                                         const SamplingRule& rule) {
  std::vector<double> scaled = TransformedLogits(logits, rule);
  for (double& value : scaled) value /= rule.temperature;
  const double max = Max(scaled);
  for (double& value : scaled) {
    if (std::exp(value - max) < rule.min_p) value = kNever;
  }
  std::vector<int> order(scaled.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scaled[a] > scaled[b]; });
  for (size_t rank = rule.top_k; rule.top_k > 0 && rank < order.size(); ++rank) {
    scaled[order[rank]] = kNever;
  }
  const std::vector<double> before_nucleus = Softmax(scaled);
  double mass = 0.0;
  for (int token : order) {
    if (mass >= rule.top_p) scaled[token] = kNever;
    mass += before_nucleus[token];
  }
  return Softmax(scaled);
}

std::vector<double> LogSoftmax(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(logit - max);
  std::vector<double> result;
  for (float logit : logits) result.push_back(logit - max - std::log(sum));
  return result;
}

}  // namespace parallax::reference
