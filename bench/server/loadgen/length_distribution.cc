#include "bench/server/loadgen/length_distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace parallax::loadgen {
namespace {

constexpr int32_t kMaxTokens = 1 << 24;

absl::Status BadSpec(std::string_view spec, std::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("length \"", std::string(spec), "\": ", std::string(problem)));
}

bool ParseTokens(const std::string& text, int32_t* tokens) {
  return absl::SimpleAtoi(text, tokens) && *tokens >= 1 && *tokens <= kMaxTokens;
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(std::string_view spec) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(spec), ':');
  LengthDistribution result;
  result.spec_ = std::string(spec);
  if (parts.size() == 1) {
    if (!ParseTokens(parts[0], &result.min_)) return BadSpec(spec, "not a positive number");
    result.max_ = result.min_;
    return result;
  }
  const bool uniform = parts[0] == "uniform" && parts.size() == 3;
  const bool log_normal = parts[0] == "lognormal" && parts.size() == 5;
  if (!uniform && !log_normal) {
    return BadSpec(spec, "expected N, uniform:MIN:MAX or lognormal:MEDIAN:SIGMA:MIN:MAX");
  }
  if (!ParseTokens(parts[parts.size() - 2], &result.min_) ||
      !ParseTokens(parts[parts.size() - 1], &result.max_) || result.min_ > result.max_) {
    return BadSpec(spec, "MIN and MAX must be positive, MIN <= MAX");
  }
  if (log_normal) {
    double median = 0.0;
    if (!absl::SimpleAtod(parts[1], &median) || !(median >= 1.0) || !std::isfinite(median)) {
      return BadSpec(spec, "MEDIAN must be at least 1");
    }
    if (!absl::SimpleAtod(parts[2], &result.sigma_) || !(result.sigma_ >= 0.0) ||
        result.sigma_ > 10.0) {
      return BadSpec(spec, "SIGMA must be in [0, 10]");
    }
    result.kind_ = Kind::kLogNormal;
    result.log_median_ = std::log(median);
  }
  return result;
}

int32_t LengthDistribution::Sample(std::mt19937_64& random) const {
  if (kind_ == Kind::kUniform) return std::uniform_int_distribution<int32_t>(min_, max_)(random);
  const double normal = std::normal_distribution<double>(0.0, 1.0)(random);
  const double tokens = std::round(std::exp(log_median_ + sigma_ * normal));
  return static_cast<int32_t>(std::clamp<double>(tokens, min_, max_));
}

}  // namespace parallax::loadgen
