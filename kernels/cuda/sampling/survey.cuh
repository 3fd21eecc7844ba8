// One pass over a row: its most likely element, and the sum of its masses, tile by tile.
//
// A mass is exp((logit - reference) / temperature), a float. The reference comes from a sample of
// the row and need only be somewhere near the maximum, which is not known yet. Sums do not depend
// on how many blocks share the row: a tile's is added up in one order, and tiles are added as
// integers.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_SURVEY_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_SURVEY_CUH_

#include <math_constants.h>

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/key_list.cuh"
#include "kernels/cuda/sampling/row_part.cuh"

namespace parallax::kernels::cuda {

// What some of a row's first `limit` logits tell of all, the same in every block.
struct RowSample {
  float max;     // a guess at the maximum; 0 if they are all masked
  float likely;  // one in 500 or so of the row are no less; none if too many are masked
};

template <typename Group>
__device__ RowSample SampleRow(Collective<Group>& collective, const float* row, int limit) {
  const int fours = limit / 4;
  float max = -CUDART_INF_F;
  if (fours > 0) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int begin = (fours > 32 ? fours - 32 : 0) / (kSampleWarps - 1) * warp;
    const float4 v = LoadOnce(row + 4 * min(begin + lane, fours - 1));
    max = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
  }
  // Of the maxima of 128 each, the fourth.
  const uint32_t bits =
      collective.WarpValues(__reduce_max_sync(~0u, OrderedBits(fminf(max, FLT_MAX))));
  const int index = threadIdx.x % kSampleWarps;
  int rank = 0;
#pragma unroll
  for (int i = 0; i < kSampleWarps; ++i) {
    const uint32_t other = __shfl_sync(~0u, bits, i);
    rank += other > bits || (other == bits && i < index);
  }
  const int chosen = __ffs(__ballot_sync(~0u, rank == 3)) - 1;
  const float likely = FloatOfOrderedBits(__shfl_sync(~0u, bits, chosen));
  max = FloatOfOrderedBits(__reduce_max_sync(~0u, bits));
  return {max == -CUDART_INF_F ? 0.0f : max, likely == -CUDART_INF_F ? CUDART_INF_F : likely};
}

struct MassScale {
  float reference;
  float scale;  // log2(e) / temperature

  __device__ static MassScale For(float reference, float temperature) {
    return {reference, 1.44269504f / temperature};
  }
  __device__ __forceinline__ float Exponent(float logit) const {
    return __fmul_rn(__fsub_rn(logit, reference), scale);
  }
  __device__ __forceinline__ float Mass(float logit) const {
    float mass;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(mass) : "f"(Exponent(logit)));
    return mass;
  }
  // Floats then hold the sum of all masses and all that matter to it.
  __device__ bool Suits(float max) const { return fabsf(Exponent(max)) <= 64.0f; }

  // Masses as integers, in units of about 2^-40 of that of `max`.
  __device__ int UnitBits(float max) const { return 40 - __float2int_rn(Exponent(max)); }
  __device__ static uint64_t Units(float mass, int unit_bits) {
    return __float2ull_rn(ldexpf(mass, unit_bits));
  }
};

// The most likely element that a thread or all threads saw.
struct Peak {
  float max = -INFINITY;  // +inf for NaN
  int id = INT_MAX;       // the lowest with `max`

  template <typename Group>
  __device__ Peak Reduce(Collective<Group>& collective) const {
    // ~LikelihoodKey orders by likelihood.
    const uint64_t best = ~collective.Max(~LikelihoodKey(max, id));
    Peak all;
    all.max = LogitOfKey(best);
    all.id = IdOfKey(best);
    return all;
  }
};

// Finds a thread's peak, or its `max` alone.
template <bool kWithId>
class Seeker;

template <>
class Seeker<false> {
 public:
  __device__ __forceinline__ void See(const float4&, float max_of_four, int) {
    max_ = MaxOrNan(max_, max_of_four);
  }
  __device__ Peak peak() const { return {isnan(max_) ? CUDART_INF_F : max_, 0}; }

 private:
  float max_ = -INFINITY;
};

// Without branches: new maxima are frequent enough in a warp.
template <>
class Seeker<true> {
 public:
  __device__ __forceinline__ void See(const float4& four, float max_of_four, int first_id) {
    const bool is_higher = max_of_four > max_;
    max_ = MaxOrNan(max_, max_of_four);
    first_id_ = is_higher ? first_id : first_id_;
    x_ = is_higher ? four.x : x_;
    y_ = is_higher ? four.y : y_;
    z_ = is_higher ? four.z : z_;
  }
  __device__ Peak peak() const {
    if (isnan(max_)) return {CUDART_INF_F, 0};
    if (max_ == -CUDART_INF_F) return {};
    return {max_, first_id_ + (x_ == max_ ? 0 : y_ == max_ ? 1 : z_ == max_ ? 2 : 3)};
  }

 private:
  float max_ = -INFINITY;
  int first_id_ = 0;  // of the four that have it, the first of which are
  float x_ = 0.0f;
  float y_ = 0.0f;
  float z_ = 0.0f;
};

__device__ __forceinline__ float MaxOrNan(const float4& four) {
  return MaxOrNan(MaxOrNan(four.x, four.y), MaxOrNan(four.z, four.w));
}

// Sums of masses over this block's tiles.
struct TileSums {
  float drawn[kMaxSampleTiles];   // at the row's temperature
  float scored[kMaxSampleTiles];  // of the raw logits, for logprobs
  float beyond[kSampleWarps];     // as `scored`, of the logits beyond the limit; in one block only
};

// In one order.
__device__ __forceinline__ void StoreWarpSum(float value, float* sum) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  if (threadIdx.x % 32 == 0) *sum = value;
}

__device__ __forceinline__ float MassOfFour(const MassScale& scale, const float4& four) {
  return (scale.Mass(four.x) + scale.Mass(four.y)) + (scale.Mass(four.z) + scale.Mass(four.w));
}

// The pass, as this thread sees it. Scoring also lists the elements no less than `likely`.
// `copy`: a row that gets the part's elements, if kCopies.
template <bool kDraws, bool kScores, bool kCopies>
__device__ __noinline__ Peak Survey(RowPart part, MassScale drawn, MassScale scored, float likely,
                                    TileSums* sums, KeyList* list, float* copy) {
  KeyWriter writer(list);
  const auto is_likely = [=](float logit) { return logit >= likely; };
  const int end = part.begin + part.size;
  Seeker<!kDraws> seeker;
  float drawn_sum = 0.0f;
  float scored_sum = 0.0f;
  part.Stream<kScores ? 1 : 2, false>(
      [&](const float4& four, int id) {
        if (kCopies && id < end) *reinterpret_cast<float4*>(copy + id) = four;
        const float max = MaxOrNan(four);
        seeker.See(four, max, id);
        if (kDraws) drawn_sum += MassOfFour(drawn, four);
        if (kScores) {
          scored_sum += MassOfFour(scored, four);
          if (__any_sync(~0u, is_likely(max))) writer.PushIf(four, id, is_likely);
        }
      },
      [&](int tile) {
        if (kDraws) StoreWarpSum(drawn_sum, &sums->drawn[tile]);
        if (kScores) StoreWarpSum(scored_sum, &sums->scored[tile]);
        drawn_sum = scored_sum = 0.0f;
      });
  if (kScores) writer.Finish();
  return seeker.peak();
}

// What follows the limit, by one block: the largest logit, NaN if one is, of those that this
// thread sees.
__device__ inline float SurveyBeyond(const float* row, int limit, int vocab, MassScale scored,
                                     TileSums* sums) {
  float max = -CUDART_INF_F;
  float sum = 0.0f;
  for (int i = limit + threadIdx.x; i < vocab; i += kSampleThreads) {
    max = MaxOrNan(max, row[i]);
    sum += scored.Mass(row[i]);
  }
  StoreWarpSum(sum, &sums->beyond[threadIdx.x / 32]);
  return max;
}

// log(sum of exp(logit)) over all columns. All threads of all blocks, after a barrier.
template <typename Group>
__device__ double LogSumExp(Collective<Group>& collective, const TileSums& sums, int tiles,
                            bool has_beyond, MassScale scored, float max) {
  const int unit_bits = scored.UnitBits(max);
  uint64_t own = 0;
  for (int i = threadIdx.x; i < tiles; i += kSampleThreads) {
    own += MassScale::Units(sums.scored[i], unit_bits);
  }
  if (has_beyond && collective.group().rank() == 0 && threadIdx.x < kSampleWarps) {
    own += MassScale::Units(sums.beyond[threadIdx.x], unit_bits);
  }
  const double octaves = log2(static_cast<double>(collective.Sum(own))) - unit_bits;
  return scored.reference + octaves / static_cast<double>(scored.scale);
}

struct TileCrossing {
  int tile;  // of the row
  uint64_t target;
};

// The element in order of ids at which the mass exceeds `uniform` of the whole, in the first
// block. All threads of all blocks, after a barrier.
template <typename Group>
class DrawById {
 public:
  __device__ DrawById(Collective<Group>& collective, TileCrossing& crossing, MassScale drawn,
                      float max)
      : collective_(collective),
        crossing_(crossing),
        drawn_(drawn),
        unit_bits_(drawn.UnitBits(max)) {}

  __device__ int Draw(const RowPart& part, int limit, const TileSums& sums, double uniform) {
    FindTile(part, sums, uniform);
    collective_.group().Sync();
    return collective_.group().rank() == 0 ? FindInTile(part.row, limit) : 0;
  }

 private:
  __device__ void FindTile(const RowPart& part, const TileSums& sums, double uniform) {
    constexpr int kOwn = kMaxSampleTiles / kSampleThreads;
    uint64_t own[kOwn];
    uint64_t sum = 0;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int tile = threadIdx.x * kOwn + j;
      own[j] = tile < part.tiles() ? MassScale::Units(sums.drawn[tile], unit_bits_) : 0;
      sum += own[j];
    }
    uint64_t total = 0;
    uint64_t before = collective_.ExclusiveSum(sum, total);
    const auto below = static_cast<uint64_t>(uniform * static_cast<double>(total));
    const uint64_t target = min(below + 1, total);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      if (before < target && target <= before + own[j]) {
        TileCrossing* const crossing = collective_.group().Remote(&crossing_, 0);
        crossing->tile = part.begin / kSampleTile + static_cast<int>(threadIdx.x) * kOwn + j;
        crossing->target = target - before;
      }
      before += own[j];
    }
  }

  // Every warp finds the same.
  __device__ int FindInTile(const float* row, int limit) const {
    const int lane = threadIdx.x % 32;
    const int begin = crossing_.tile * kSampleTile;
    const RowPart tile = {row, begin, min(kSampleTile, limit - begin)};
    const uint64_t target = crossing_.target;
    uint64_t before = 0;
    int last = 0;  // with any mass: added one by one they may come to a hair less than their sum
    for (int first = 0; first < tile.size; first += 128) {
      const int at = first + 4 * lane;
      const float4 four =
          at < tile.size ? tile.Four(at)
                         : make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
      const uint64_t x = Units(four.x);
      const uint64_t xy = x + Units(four.y);
      const uint64_t xyz = xy + Units(four.z);
      const uint64_t all = xyz + Units(four.w);
      uint64_t through = all;
      for (int offset = 1; offset < 32; offset *= 2) {
        const uint64_t lower = __shfl_up_sync(~0u, through, offset);
        if (lane >= offset) through += lower;
      }
      const uint64_t ahead = before + through - all;
      const int found = at + (ahead + x < target) + (ahead + xy < target) + (ahead + xyz < target);
      const uint32_t reached = __ballot_sync(~0u, ahead + all >= target);
      if (reached != 0) return begin + __shfl_sync(~0u, found, __ffs(reached) - 1);
      const int own_last = at + (xyz < all ? 3 : xy < xyz ? 2 : x < xy ? 1 : 0);
      const uint32_t with_mass = __ballot_sync(~0u, all > 0);
      if (with_mass != 0) last = __shfl_sync(~0u, own_last, 31 - __clz(with_mass));
      before += __shfl_sync(~0u, through, 31);
    }
    return begin + last;
  }

  __device__ uint64_t Units(float logit) const {
    return MassScale::Units(drawn_.Mass(logit), unit_bits_);
  }

  Collective<Group>& collective_;
  TileCrossing& crossing_;
  const MassScale drawn_;
  const int unit_bits_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SURVEY_CUH_
