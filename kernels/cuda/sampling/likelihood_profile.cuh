// Draws from a row in order of likelihood in two passes over its logits.
//
// The first pass counts masses, exp((logit - max) / temperature), into a histogram that is linear
// in the logit. Its top is a guess from a sample of the row, well above it, so that the maximum
// need not be known first. Within a bin masses differ by 0.6 %; they are counted as integers
// relative to the bin's centre, so that sums are exact in any order.
//
// The histogram tells in which few bins min_p, top_k, top_p and the draw can end. The second pass
// gathers the elements of those bins; sorted, they settle each in turn. A row for which they are
// too many (nearly equal logits) is left to Ranking.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_

#include <math_constants.h>

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/row_part.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kProfileBins = 8192;
inline constexpr int kNoMassBin = kProfileBins - 1;  // all that lies deeper
inline constexpr int kGatherSize = 4096;
// In units of the temperature: how far above the sample's maximum the bins reach, and how far
// below it. What is exp(-26) of the most likely is never drawn.
inline constexpr float kHeadroom = 24.0f;
inline constexpr float kDepth = 26.0f;
inline constexpr float kBinWidth = (kHeadroom + kDepth) / kProfileBins;
inline constexpr int kWeightBits = 21;

struct ProfileBins {
  float top;        // the centre of bin 0
  float per_logit;  // bins

  __device__ static ProfileBins For(float top, float temperature) {
    return {top, 1.0f / (kBinWidth * temperature)};
  }

  struct Place {
    int bin;
    float offset;  // from the bin's centre, in bins
  };
  // Adding 1.5 * 2^23 rounds to an integer that lies in the low bits.
  __device__ Place PlaceOf(float logit) const {
    constexpr float kRounder = 12582912.0f;
    const float place =
        fmaxf(fminf(__fmul_rn(__fsub_rn(top, logit), per_logit), float(kNoMassBin)), 0.0f);
    const float rounded = __fadd_rn(place, kRounder);
    return {__float_as_int(rounded) - 0x4B400000,  // kRounder's bits
            __fsub_rn(place, __fsub_rn(rounded, kRounder))};
  }
  __device__ int Bin(float logit) const { return PlaceOf(logit).bin; }

  // exp(-offset * width) in units of 2^-21, by its series: |offset * width| <= 0.0031.
  __device__ static uint32_t Weight(float offset) {
    constexpr float kUnits = 1 << kWeightBits;
    constexpr float kRounder = 8388608.0f;
    const float x = -kBinWidth * offset;
    const float weight = fmaf(x, fmaf(x, 0.5f * kUnits, kUnits), kUnits);
    return __float_as_uint(__fadd_rn(weight, kRounder)) - 0x4B000000;  // kRounder's bits
  }
};

struct ProfileShared {
  union {
    struct {
      uint32_t low[kProfileBins];    // weights modulo 2^32 ...
      uint32_t carry[kProfileBins];  // ... and how often they wrapped
    } weights;
    uint64_t mass_through[kProfileBins];  // of a bin and all before it
  };
  union {
    uint32_t count[kProfileBins];          // while top_k needs them: elements of a bin,
    uint32_t count_through[kProfileBins];  // then of it and all before it
    uint64_t keys[kGatherSize];
  };
  int num_keys;
  int token;
};

// The most likely element of a row's part below the limit, and the largest logit of all.
struct Peak {
  float raw_max = -INFINITY;  // +inf for NaN
  float max = -INFINITY;
  int id = INT_MAX;  // the lowest with `max`

  __device__ void See(float logit, int i) {
    if (logit <= max) return;
    max = isnan(logit) ? CUDART_INF_F : logit;
    id = i;
  }
  __device__ void SeeBeyondLimit(float logit) {
    raw_max = fmaxf(raw_max, isnan(logit) ? CUDART_INF_F : logit);
  }

  // Of all threads.
  template <typename Group>
  __device__ Peak Reduce(Collective<Group>& collective) const {
    // ~LikelihoodKey orders by likelihood.
    const uint64_t best = ~collective.Max(~LikelihoodKey(max, id));
    Peak all;
    all.max = LogitOfKey(best);
    all.id = IdOfKey(best);
    all.raw_max = FloatOfOrderedBits(
        static_cast<uint32_t>(collective.Max(OrderedBits(fmaxf(raw_max, all.max)))));
    return all;
  }
};

// What min_p, top_k and top_p leave.
struct LikelihoodFilters {
  float min_logit;  // by min_p; -inf: none
  int top_k;        // 0: none
  float top_p;      // 1: none
};

template <typename Group>
class LikelihoodProfile {
 public:
  static constexpr int kTooMany = -1;

  __device__ LikelihoodProfile(Collective<Group>& collective, ProfileShared& shared,
                               const RowPart& part, int vocab_size)
      : group_(collective.group()),
        collective_(collective),
        shared_(shared),
        part_(part),
        vocab_size_(vocab_size) {}

  // A guess at the maximum of the row from some of its logits; -inf if they are all masked.
  __device__ float SampleMax() {
    const int fours = part_.size / 4;
    float max = -INFINITY;
    if (fours > 0) {
      const int four = static_cast<int>(static_cast<int64_t>(fours) * threadIdx.x / kSampleThreads);
      const float4 v = reinterpret_cast<const float4*>(part_.row + part_.begin)[four];
      max = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
    }
    max = fminf(max, FLT_MAX);
    return FloatOfOrderedBits(static_cast<uint32_t>(collective_.Max(OrderedBits(max))));
  }

  // The first pass.
  __device__ Peak Count(const ProfileBins& bins, bool with_counts);

  // The element that `uniform` draws, in the first block; kTooMany in all. REQUIRES: Count() with
  // `bins`, whose top is not below max.
  __device__ int Draw(const ProfileBins& bins, const Peak& peak, const LikelihoodFilters& filters,
                      double uniform);

 private:
  static constexpr int kWarpBins = kProfileBins / (kSampleWarps * Group::kBlocks);
  static constexpr int kRows = kWarpBins / 32;  // of 32 bins a warp
  struct Range {
    int first = 0;
    int last = -1;
    __device__ bool Has(int bin) const { return bin >= first && bin <= last; }
  };
  // An element of the sorted list, and the mass through it.
  struct Settled {
    int index;
    uint64_t through;
  };

  __device__ void AddWeight(int bin, uint32_t weight) {
    const uint32_t old = atomicAdd(&shared_.weights.low[bin], weight);
    if (old + weight < old) atomicAdd(&shared_.weights.carry[bin], 1u);
  }

  // Replaces bins by running sums: value(bin) is of this block's bins or all blocks', store(block,
  // bin, sum) puts it in place. Returns the total.
  template <typename Value, typename Store>
  __device__ uint64_t RunningSums(const Value& value, const Store& store);
  __device__ uint64_t SumMasses(const ProfileBins& bins, const Peak& peak);
  __device__ uint32_t SumCounts();

  // The first bin through which the sum reaches the target.
  template <typename Sum>
  static __device__ int BinReaching(const Sum* through, uint64_t target) {
    int bin = 0;
    for (int step = kProfileBins / 2; step > 0; step /= 2) {
      if (through[bin + step - 1] < target) bin += step;
    }
    return bin;
  }
  __device__ uint64_t MassBefore(int bin) const {
    return bin == 0 ? 0 : shared_.mass_through[bin - 1];
  }

  __device__ void Gather(const ProfileBins& bins, const Range& a, const Range& b, const Range& c);
  __device__ void SortKeys();

  // How many of the listed elements, from the first on, `is_before` holds for.
  template <typename IsBefore>
  __device__ int ListedBefore(const IsBefore& is_before) const {
    int first = 0;
    int end = shared_.num_keys;
    while (first < end) {
      const int middle = (first + end) / 2;
      if (is_before(LogitOfKey(shared_.keys[middle]))) {
        first = middle + 1;
      } else {
        end = middle;
      }
    }
    return first;
  }
  // The first listed element of a bin no less than `bin`.
  __device__ int ListedFrom(const ProfileBins& bins, int bin) const {
    return ListedBefore([&](float logit) { return bins.Bin(logit) < bin; });
  }
  // By all lanes of one warp.
  __device__ Settled Settle(const ProfileBins& bins, uint64_t target) const;
  __device__ uint64_t MassThrough(const ProfileBins& bins, int bin, int index) const;
  __device__ uint32_t ListedWeight(const ProfileBins& bins, int index) const {
    return ProfileBins::Weight(bins.PlaceOf(LogitOfKey(shared_.keys[index])).offset);
  }

  Group group_;
  Collective<Group>& collective_;
  ProfileShared& shared_;
  const RowPart& part_;
  const int vocab_size_;
};

template <typename Group>
__device__ Peak LikelihoodProfile<Group>::Count(const ProfileBins& bins, bool with_counts) {
  group_.Sync();  // another block may still read what is cleared
  for (int i = threadIdx.x; i < kProfileBins; i += kSampleThreads) {
    shared_.weights.low[i] = shared_.weights.carry[i] = shared_.count[i] = 0;
  }
  __syncthreads();
  Peak peak;
  part_.ForEach([&](float logit, int id) {
    peak.See(logit, id);
    const ProfileBins::Place place = bins.PlaceOf(logit);
    if (place.bin == kNoMassBin) return;
    AddWeight(place.bin, ProfileBins::Weight(place.offset));
    if (with_counts) atomicAdd(&shared_.count[place.bin], 1u);
  });
  part_.ForEachBeyond([&](float logit) { peak.SeeBeyondLimit(logit); });
  return peak.Reduce(collective_);  // a barrier of the group
}

template <typename Group>
template <typename Value, typename Store>
__device__ uint64_t LikelihoodProfile<Group>::RunningSums(const Value& value, const Store& store) {
  const int lane = threadIdx.x % 32;
  const int first = (group_.rank() * kSampleWarps + threadIdx.x / 32) * kWarpBins + lane;
  uint64_t sums[kRows];
  uint64_t before = 0;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    uint64_t sum = value(first + 32 * row);
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t lower = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += lower;
    }
    sums[row] = sum + before;
    before = __shfl_sync(~0u, sums[row], 31);
  }
  uint64_t total = 0;
  before = collective_.ExclusiveSum(lane == 31 ? before : 0, total);
  before = __shfl_sync(~0u, before, 0);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    for (int r = 0; r < Group::kBlocks; ++r) store(r, first + 32 * row, before + sums[row]);
  }
  group_.Sync();
  return total;
}

// In units that leave a sum over the whole vocabulary below 2^63.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::SumMasses(const ProfileBins& bins, const Peak& peak) {
  constexpr float kLog2E = 1.44269504f;
  const int first_bin = bins.Bin(peak.max);
  const int unit_bits = 62 - (kWeightBits + 1) - (32 - __clz(vocab_size_));
  return RunningSums(
      [&](int bin) {
        uint64_t sum = 0;
#pragma unroll
        for (int r = 0; r < Group::kBlocks; ++r) {
          sum += *group_.Remote(&shared_.weights.low[bin], r);
          sum += static_cast<uint64_t>(*group_.Remote(&shared_.weights.carry[bin], r)) << 32;
        }
        const float scale =
            exp2f(static_cast<float>(unit_bits) - (bin - first_bin) * (kBinWidth * kLog2E));
        return __float2ull_rn(static_cast<float>(sum) * scale);
      },
      [&](int block, int bin, uint64_t sum) {
        *group_.Remote(&shared_.mass_through[bin], block) = sum;
      });
}

template <typename Group>
__device__ uint32_t LikelihoodProfile<Group>::SumCounts() {
  return static_cast<uint32_t>(RunningSums(
      [&](int bin) {
        uint64_t sum = 0;
        for (int r = 0; r < Group::kBlocks; ++r) sum += *group_.Remote(&shared_.count[bin], r);
        return sum;
      },
      [&](int block, int bin, uint64_t sum) {
        *group_.Remote(&shared_.count_through[bin], block) = static_cast<uint32_t>(sum);
      }));
}

template <typename Group>
__device__ void LikelihoodProfile<Group>::Gather(const ProfileBins& bins, const Range& a,
                                                 const Range& b, const Range& c) {
  // The keys lie where the counts were.
  group_.Sync();
  if (group_.rank() == 0 && threadIdx.x == 0) shared_.num_keys = 0;
  group_.Sync();
  int* const num_keys = group_.Remote(&shared_.num_keys, 0);
  uint64_t* const keys = group_.Remote(shared_.keys, 0);
  part_.ForEach([&](float logit, int id) {
    const int bin = bins.Bin(logit);
    if (!a.Has(bin) && !b.Has(bin) && !c.Has(bin)) return;
    const int slot = atomicAdd(num_keys, 1);
    if (slot < kGatherSize) keys[slot] = LikelihoodKey(logit, id);
  });
  group_.Sync();
}

// Bitonic, by one block.
template <typename Group>
__device__ void LikelihoodProfile<Group>::SortKeys() {
  const int size = 1 << (32 - __clz(max(shared_.num_keys, 2) - 1));
  for (int i = shared_.num_keys + threadIdx.x; i < size; i += kSampleThreads) {
    shared_.keys[i] = ~uint64_t{0};
  }
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kSampleThreads) {
        const int i = 2 * (pair & ~(distance - 1)) + (pair & (distance - 1));
        const uint64_t low = shared_.keys[i];
        const uint64_t high = shared_.keys[i + distance];
        if ((low > high) == ((i & run) == 0)) {
          shared_.keys[i] = high;
          shared_.keys[i + distance] = low;
        }
      }
      __syncthreads();
    }
  }
}

// The first element through which the mass reaches the target. Its bin is listed as a whole.
template <typename Group>
__device__ auto LikelihoodProfile<Group>::Settle(const ProfileBins& bins, uint64_t target) const
    -> Settled {
  const int lane = threadIdx.x % 32;
  const int bin = BinReaching(shared_.mass_through, target);
  const uint64_t before = MassBefore(bin);
  const uint64_t mass = shared_.mass_through[bin] - before;
  const int first = ListedFrom(bins, bin);
  const int end = ListedFrom(bins, bin + 1);
  uint64_t weights = 0;
  for (int i = first + lane; i < end; i += 32) weights += ListedWeight(bins, i);
  for (int offset = 16; offset > 0; offset /= 2) weights += __shfl_xor_sync(~0u, weights, offset);
  const double mass_per_weight = static_cast<double>(mass) / static_cast<double>(weights);
  const auto wanted =
      static_cast<uint64_t>(ceil(static_cast<double>(target - before) / mass_per_weight));
  uint64_t through = 0;
  for (int row = first; row < end; row += 32) {
    uint64_t sum = row + lane < end ? ListedWeight(bins, row + lane) : 0;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t lower = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += lower;
    }
    sum += through;
    through = __shfl_sync(~0u, sum, 31);
    const uint32_t reached = __ballot_sync(~0u, sum >= min(wanted, weights));
    if (reached == 0) continue;
    const int at = __ffs(reached) - 1;
    sum = __shfl_sync(~0u, sum, at);
    return {row + at, before + static_cast<uint64_t>(static_cast<double>(sum) * mass_per_weight)};
  }
  return {end - 1, before + mass};
}

// The mass through the listed element `index` of `bin`; of all before the bin if it is not of it.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::MassThrough(const ProfileBins& bins, int bin,
                                                          int index) const {
  const uint64_t before = MassBefore(bin);
  const uint64_t mass = shared_.mass_through[bin] - before;
  const int first = ListedFrom(bins, bin);
  const int end = ListedFrom(bins, bin + 1);
  uint64_t through = 0;
  uint64_t weights = 0;
  for (int i = first + threadIdx.x % 32; i < end; i += 32) {
    const uint64_t weight = ListedWeight(bins, i);
    weights += weight;
    if (i <= index) through += weight;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    weights += __shfl_xor_sync(~0u, weights, offset);
    through += __shfl_xor_sync(~0u, through, offset);
  }
  if (weights == 0) return before;
  return before + static_cast<uint64_t>(static_cast<double>(through) *
                                        (static_cast<double>(mass) / static_cast<double>(weights)));
}

template <typename Group>
__device__ int LikelihoodProfile<Group>::Draw(const ProfileBins& bins, const Peak& peak,
                                              const LikelihoodFilters& filters, double uniform) {
  const uint64_t total = SumMasses(bins, peak);
  // By min_p and top_k: the bin where they cut, if they do.
  Range cut;
  uint32_t ahead = 0;  // elements before the bin of the top_k-th
  int top_k_bin = kNoMassBin;
  if (filters.top_k > 0 && filters.top_k < SumCounts()) {
    top_k_bin = BinReaching(shared_.count_through, filters.top_k);
    if (top_k_bin > 0) ahead = shared_.count_through[top_k_bin - 1];
  }
  const int min_p_bin = bins.Bin(filters.min_logit);
  const int cut_bin = min(top_k_bin, min_p_bin);
  uint64_t least = total;
  uint64_t most = total;
  if (cut_bin < kNoMassBin) {
    cut = {cut_bin, cut_bin};
    least = MassBefore(cut_bin);
    most = shared_.mass_through[cut_bin];
  }
  const auto nucleus_target = [&](uint64_t kept) {
    const auto target = static_cast<uint64_t>(ceil(filters.top_p * static_cast<double>(kept)));
    return max(uint64_t{1}, min(target, kept));
  };
  Range nucleus;
  if (filters.top_p < 1.0f) {
    nucleus = {BinReaching(shared_.mass_through, nucleus_target(least)),
               BinReaching(shared_.mass_through, nucleus_target(most))};
    least = MassBefore(nucleus.first);
    most = min(most, shared_.mass_through[nucleus.last]);
  }
  const auto draw_target = [&](uint64_t kept) {
    const auto below = static_cast<uint64_t>(uniform * static_cast<double>(kept));
    return max(uint64_t{1}, min(below + 1, kept));
  };
  const Range drawn = {BinReaching(shared_.mass_through, draw_target(least)),
                       BinReaching(shared_.mass_through, draw_target(most))};

  Gather(bins, cut, nucleus, drawn);
  if (*group_.Remote(&shared_.num_keys, 0) > kGatherSize) return kTooMany;
  if (group_.rank() > 0) return 0;
  SortKeys();
  if (threadIdx.x < 32) {
    uint64_t kept = total;
    int last = shared_.num_keys - 1;
    if (cut_bin < kNoMassBin) {
      if (top_k_bin == cut_bin) last = ListedFrom(bins, cut_bin) + (filters.top_k - ahead) - 1;
      if (min_p_bin == cut_bin) {
        const auto stays = [&](float logit) { return logit >= filters.min_logit; };
        last = min(last, ListedBefore(stays) - 1);
      }
      kept = max(uint64_t{1}, MassThrough(bins, cut_bin, last));
    }
    if (filters.top_p < 1.0f) {
      const Settled end = Settle(bins, nucleus_target(kept));
      kept = min(kept, end.through);
    }
    const Settled element = Settle(bins, draw_target(kept));
    if (threadIdx.x == 0) shared_.token = IdOfKey(shared_.keys[element.index]);
  }
  __syncthreads();
  return shared_.token;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_
