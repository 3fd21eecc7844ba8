#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/logit_transforms.h"
#include "kernels/philox.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sampling.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/logits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

inline constexpr float kLowest = std::numeric_limits<float>::lowest();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One thread's part of the workspace, for a vocabulary of vocab_size.
struct RowWorkspace {
  std::span<float> logits;        // transformed
  std::span<int32_t> candidates;  // tokens
};

// Relative to the most likely token's.
inline float Probability(float logit, float max, float inverse_temperature) {
  return hn::GetLane(hn::Exp(FloatTag(), hn::Set(FloatTag(), (logit - max) * inverse_temperature)));
}

// The tokens that min_p, top_k and top_p leave, most likely first, and the draw among them.
class FilteredDraw {
 public:
  FilteredDraw(const SamplingRow& row, float max, const RowWorkspace& workspace)
      : row_(row),
        logits_(workspace.logits),
        candidates_(workspace.candidates),
        max_(max),
        inverse_temperature_(1.0f / row.temperature) {
    if (row.min_p > 0.0f) {
      // p >= min_p * max p, as a bound on the logit.
      floor_ = static_cast<float>(max + double{row.temperature} * std::log(double{row.min_p}));
    }
  }

  int32_t Draw(double uniform) {
    const size_t vocab = logits_.size();
    if (row_.top_k > 0 || row_.top_p == 1.0f) {
      const size_t limit = row_.top_k > 0 ? std::min<size_t>(row_.top_k, vocab) : vocab;
      const std::span<const int32_t> kept = SelectTop(limit);
      return DrawFrom(kept, Mass(kept), uniform);
    }
    // Without top_k the nucleus is somewhere among the first tokens in order of likelihood,
    // mostly among very few: look among few first, and sort no more than needed.
    constexpr size_t kFirstLook = 256;
    constexpr size_t kGrowth = 8;
    const double mass =
        SumExp(logits_.data(), static_cast<int64_t>(vocab), max_, inverse_temperature_, floor_);
    size_t limit = std::min(kFirstLook, vocab);
    for (;;) {
      const std::span<const int32_t> top = SelectTop(limit);
      if (limit == vocab || top.size() < limit || Mass(top) >= row_.top_p * mass) {
        return DrawFrom(top, mass, uniform);
      }
      limit = std::min(limit * kGrowth, vocab);
    }
  }

 private:
  float Probability(int32_t token) const {
    return HWY_NAMESPACE::Probability(logits_[token], max_, inverse_temperature_);
  }

  double Mass(std::span<const int32_t> tokens) const {
    double mass = 0.0;
    for (int32_t token : tokens) mass += Probability(token);
    return mass;
  }

  // The `limit` most likely tokens with a logit of at least floor_, in order.
  std::span<const int32_t> SelectTop(size_t limit) {
    const auto more_likely = [this](int32_t a, int32_t b) {
      return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    // Room for as many again, so that a cut back to `limit` pays for itself.
    const size_t room = std::min(candidates_.size(), 2 * limit);
    const auto begin = candidates_.begin();
    size_t count = 0;
    float bound = floor_;
    VisitAtLeast(
        logits_.data(), static_cast<int64_t>(logits_.size()), [&] { return bound; },
        [&](int64_t token) {
          candidates_[count++] = static_cast<int32_t>(token);
          if (count < room || room == candidates_.size()) return;
          std::nth_element(begin, begin + (limit - 1), begin + count, more_likely);
          // Later tokens must be more likely, not equally likely, to displace the last one.
          bound = std::nextafter(logits_[candidates_[limit - 1]], kInfinity);
          count = limit;
        });
    if (count > limit) {
      std::nth_element(begin, begin + (limit - 1), begin + count, more_likely);
      count = limit;
    }
    std::sort(begin, begin + count, more_likely);
    return {candidates_.data(), count};
  }

  // Cuts `sorted` to the nucleus of top_p * mass and inverts its cumulative distribution.
  int32_t DrawFrom(std::span<const int32_t> sorted, double mass, double uniform) const {
    size_t kept = 0;
    double kept_mass = 0.0;
    while (kept < sorted.size() && (kept == 0 || kept_mass < row_.top_p * mass)) {
      kept_mass += Probability(sorted[kept++]);
    }
    const double target = uniform * kept_mass;
    double cumulative = 0.0;
    for (int32_t token : sorted.first(kept)) {
      cumulative += Probability(token);
      if (cumulative > target) return token;
    }
    return sorted[kept - 1];
  }

  const SamplingRow& row_;
  std::span<const float> logits_;
  std::span<int32_t> candidates_;
  const float max_;
  const float inverse_temperature_;
  float floor_ = kLowest;
};

// Draws from the whole distribution: block sums find the block, a walk finds the token.
inline int32_t DrawUnfiltered(const SamplingRow& row, float max, std::span<const float> logits,
                              double uniform) {
  const float inverse_temperature = 1.0f / row.temperature;
  const int64_t size = static_cast<int64_t>(logits.size());
  const double target = uniform * SumExp(logits.data(), size, max, inverse_temperature);
  double before = 0.0;      // mass before `block`
  double cumulative = 0.0;  // mass up to the end of the block in hand
  int64_t block = 0;
  for (int64_t begin = 0; begin < size && cumulative <= target; begin += kSumBlock) {
    const double sum = SumExpBlock(logits.data() + begin, std::min(kSumBlock, size - begin), max,
                                   inverse_temperature, kLowest);
    if (sum == 0.0) continue;
    block = begin;
    before = cumulative;
    cumulative += sum;
  }
  // Added one by one, the block may come to a hair less than its sum: then the last token that
  // has any mass takes the rest.
  int32_t drawn = -1;
  cumulative = before;
  for (int64_t token = block; token < std::min(block + kSumBlock, size); ++token) {
    const float p = Probability(logits[token], max, inverse_temperature);
    if (p == 0.0f) continue;
    drawn = static_cast<int32_t>(token);
    cumulative += p;
    if (cumulative > target) break;
  }
  return drawn;
}

inline void SampleToken(const SamplingRow& row, const RowWorkspace& workspace,
                        SampleResult& result) {
  const std::span<const float> logits = workspace.logits;
  const float max = MaxLogit(logits.data(), static_cast<int64_t>(logits.size()));
  if (max == -kInfinity) {
    result.status = SampleStatus::kNoTokenLeft;
    return;
  }
  if (max == kInfinity) {
    result.status = SampleStatus::kNan;
    return;
  }
  if (row.temperature < kGreedyTemperature) {
    result.token =
        static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
    return;
  }
  const double uniform = UniformDraw(row.seed, row.choice_index, row.position);
  const bool filtered = row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f;
  result.token = filtered ? FilteredDraw(row, max, workspace).Draw(uniform)
                          : DrawUnfiltered(row, max, logits, uniform);
}

inline void SampleRow(const SampleParams& params, int64_t index, const RowWorkspace& workspace) {
  const SamplingRow& row = params.rows[index];
  SampleResult& result = params.results[index];
  result = SampleResult{};
  const float* const raw = params.logits.as<float>() + index * params.logits.strides[0];
  const int64_t vocab_size = params.logits.shape[1];
  const float raw_max = MaxLogit(raw, vocab_size);
  if (std::isinf(raw_max)) {  // NaN, +inf, or nothing but -inf
    result.status = SampleStatus::kNan;
    return;
  }
  const int64_t limit = static_cast<int64_t>(workspace.logits.size());
  std::copy_n(raw, limit, workspace.logits.begin());
  TransformLogits(row, workspace.logits);
  SampleToken(row, workspace, result);
  if (result.status != SampleStatus::kOk) return;
  const double log_sum = raw_max + std::log(SumExp(raw, vocab_size, raw_max));
  result.logprob = static_cast<float>(raw[result.token] - log_sum);
  TopLogits(result.top, row.num_top_logprobs, result.top_count).Offer(raw, limit, 0);
  for (int i = 0; i < result.top_count; ++i) {
    result.top[i].logprob = static_cast<float>(result.top[i].logprob - log_sum);
  }
}

void SampleRows(const SampleParams& params, ThreadPool& pool) {
  const size_t vocab_size = params.logits.shape[1];
  const size_t limit = std::min<size_t>(vocab_size, params.token_limit);
  const size_t thread_bytes = vocab_size * (sizeof(float) + sizeof(int32_t));
  pool.ParallelFor(static_cast<int64_t>(params.rows.size()), [&](int64_t row, int thread) {
    float* const logits = reinterpret_cast<float*>(params.workspace.data() + thread * thread_bytes);
    int32_t* const candidates = reinterpret_cast<int32_t*>(logits + vocab_size);
    SampleRow(params, row, {{logits, limit}, {candidates, limit}});
  });
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace parallax::kernels::cpu {

HWY_EXPORT(SampleRows);

size_t SampleWorkspaceBytes(int64_t vocab_size, const ThreadPool& pool) {
  return pool.size() * vocab_size * (sizeof(float) + sizeof(int32_t));
}

void Sample(const SampleParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(SampleRows)(params, pool);
}

}  // namespace parallax::kernels::cpu
#endif  // HWY_ONCE
