// A naive oracle of sampling: the exact distribution that the transforms leave, in double
// precision, by full sorts. It takes its own plain description of the parameters.
#ifndef PARALLAX_TESTS_KERNELS_REFERENCE_SAMPLING_REFERENCE_H_
#define PARALLAX_TESTS_KERNELS_REFERENCE_SAMPLING_REFERENCE_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace parallax::reference {

struct SamplingRule {
  double temperature = 1.0;
  int top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::map<int, double> bias = {};
  std::set<int> prompt_tokens = {};
  std::map<int, int> output_counts = {};
  std::set<int> banned = {};
  int token_limit = 0;
};

// Logits after bias, penalties and bans; -inf = never.
std::vector<double> TransformedLogits(const std::vector<float>& logits, const SamplingRule& rule);

// Probability of each token. REQUIRES: temperature > 0 and a token left.
std::vector<double> SamplingDistribution(const std::vector<float>& logits,
                                         const SamplingRule& rule);

// log(softmax(logits)).
std::vector<double> LogSoftmax(const std::vector<float>& logits);

}  // namespace parallax::reference

#endif  // PARALLAX_TESTS_KERNELS_REFERENCE_SAMPLING_REFERENCE_H_
