// LengthDistribution: how long prompts and outputs are, in tokens.
//
//   128                        always 128
//   uniform:64:512             each of 64..512 alike
//   lognormal:256:0.8:16:2048  exp(N(ln 256, 0.8)), clamped to 16..2048
//
// Thread safety: immutable; the random engine is the caller's.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_LENGTH_DISTRIBUTION_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_LENGTH_DISTRIBUTION_H_

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace parallax::loadgen {

class LengthDistribution {
 public:
  /// INVALID_ARGUMENT quotes the specification and says what is wrong with it.
  static absl::StatusOr<LengthDistribution> Parse(std::string_view spec);

  int32_t Sample(std::mt19937_64& random) const;
  int32_t max() const { return max_; }
  const std::string& spec() const { return spec_; }

 private:
  enum class Kind { kUniform, kLogNormal };

  std::string spec_;
  Kind kind_ = Kind::kUniform;
  int32_t min_ = 1;
  int32_t max_ = 1;
  double log_median_ = 0.0;
  double sigma_ = 0.0;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_LENGTH_DISTRIBUTION_H_
