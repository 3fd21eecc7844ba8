// Draws from a row in order of likelihood in one or two passes over its logits.
//
// The first pass counts masses, exp((logit - max) / temperature), into a histogram that is linear
// in the logit, piece by piece. Its top is a guess from a sample of the row, well above it, so that
// the maximum need not be known first. Within a cell (profile_bins.cuh) masses differ by 1.6 %;
// they are counted as integers relative to the cell's centre, so that sums are exact in any order.
//
// The histogram tells in which few bins min_p, top_k, top_p and the draw can end. The elements of
// those bins, sorted, settle each in turn. They are among the likely elements that the first pass
// lists, or a second pass lists them. A row for which they are too many (nearly equal logits) is
// left to Ranking. So is one of which a bin's sum overflows.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_

#include <math_constants.h>

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/key_list.cuh"
#include "kernels/cuda/sampling/profile_bins.cuh"
#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/shared_atomics.cuh"
#include "kernels/cuda/sampling/survey.cuh"

namespace parallax::kernels::cuda {

// Consecutive bins; none if last < first.
struct BinRange {
  int first = 0;
  int last = -1;
  __device__ bool Has(int bin) const { return bin >= first && bin <= last; }
};

// Logits from `least` up to but not including `end`.
struct LogitRange {
  float least;
  float end;
  __device__ __forceinline__ bool Has(float logit) const { return logit >= least && logit < end; }
};

// The bins in which min_p or top_k, top_p and the draw can end.
struct Ranges {
  BinRange cut;
  BinRange nucleus;
  BinRange drawn;
};

// A bin, and the sum before it and through it.
struct BinSum {
  int bin;
  uint64_t before;
  uint64_t through;
};

struct ProfileShared {
  uint32_t weight[kProfileBins];
  uint64_t through[kBinGroups];  // of a group of bins and all before it, masses or counts
  union {
    uint32_t count[kProfileBins];  // if top_k needs them: elements of a bin
    struct {
      TileSums sums;
      KeyList list;
    };
  };
  uint32_t nowhere[32];  // takes what has no bin
  float bounds[6];       // of three ranges of the second pass: least, end, ...
  Ranges ranges;
  int top_k_bin;
  int ahead;  // elements before that bin
  int token;
};

// The first pass, as a thread sees it.
struct ThreadCount {
  float max;       // NaN if a logit is
  uint64_t added;  // to all weights: what wraps shows
};

// The weights are zero before, and so are the counts; without counts the elements no less than
// `likely` are listed.
template <bool kWithCounts, bool kScores>
__device__ __noinline__ ThreadCount CountMasses(RowPart part, ProfileBins bins, MassScale scored,
                                                float likely, ProfileShared* shared) {
  // Of bin 0, less the bias of bins.
  const uint32_t weight_at = SharedAddress(shared->weight) - 4 * ProfileBins::kBias;
  const uint32_t count_at = SharedAddress(shared->count) - 4 * ProfileBins::kBias;
  const uint32_t nowhere = SharedAddress(&shared->nowhere[threadIdx.x % 32]);
  KeyWriter writer(&shared->list);
  const auto is_likely = [=](float logit) { return logit >= likely; };
  ThreadCount thread = {-CUDART_INF_F, 0};
  float scored_sum = 0.0f;
  part.Stream<1, false>(
      [&](const float4& four, int id) {
        const float logits[4] = {four.x, four.y, four.z, four.w};
        uint32_t added = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float place = bins.PlaceOf(logits[j]);
          const ProfileBins::Position at = bins.PositionOf(place);
          // A predicated atomic would be compiled to a branch.
          const bool counts = place < 1.0f;
          const uint32_t weight = counts ? ProfileBins::Weight(at.offset) : 0;
          added += weight;
          SharedAdd(counts ? weight_at + 4 * at.biased_bin : nowhere, weight);
          if (kWithCounts) SharedAdd(counts ? count_at + 4 * at.biased_bin : nowhere, 1);
        }
        thread.added += added;
        const float max = MaxOrNan(four);
        thread.max = MaxOrNan(thread.max, max);
        if (kScores) scored_sum += MassOfFour(scored, four);
        if (!kWithCounts && __any_sync(~0u, is_likely(max))) writer.PushIf(four, id, is_likely);
      },
      [&](int tile) {
        if (!kScores) return;
        StoreWarpSum(scored_sum, &shared->sums.scored[tile]);
        scored_sum = 0.0f;
      });
  if (!kWithCounts) writer.Finish();
  return thread;
}

// The second pass: lists all elements of the first two or of all three ranges of shared->bounds.
template <bool kThree>
__device__ __noinline__ void ListRanges(RowPart part, ProfileShared* shared) {
  const LogitRange a = {shared->bounds[0], shared->bounds[1]};
  const LogitRange b = {shared->bounds[2], shared->bounds[3]};
  const LogitRange c = {shared->bounds[4], shared->bounds[5]};
  const auto has = [=](float logit) {
    return a.Has(logit) | b.Has(logit) | (kThree && c.Has(logit));
  };
  KeyWriter writer(&shared->list);
  part.Stream<1, true>([&](const float4& four, int id) {
    const bool is_wanted = has(four.x) | has(four.y) | has(four.z) | has(four.w);
    if (__any_sync(~0u, is_wanted)) writer.PushIf(four, id, has);
  });
  writer.Finish();
}

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

  __device__ LikelihoodProfile(Collective<Group>& collective, ProfileShared& shared, int vocab_size)
      : group_(collective.group()),
        collective_(collective),
        shared_(shared),
        vocab_size_(vocab_size) {}

  static __device__ bool Holds(const ProfileBins& bins, float max) {
    const float place = bins.PlaceOf(max);
    return place > 0.0f && place < 1.0f;
  }

  // The first pass. Lists the elements no less than `likely`. Logprobs need scores.
  __device__ ThreadCount Count(const RowPart& part, const ProfileBins& bins, float likely,
                               const MassScale* scored) {
    group_.Sync();  // another block may still read what is cleared
    Clear(shared_.weight);
    EmptyList();
    return scored != nullptr ? CountMasses<false, true>(part, bins, *scored, likely, &shared_)
                             : CountMasses<false, false>(part, bins, {}, likely, &shared_);
  }
  // Instead of the list, elements by bin.
  __device__ ThreadCount CountWithCounts(const RowPart& part, const ProfileBins& bins) {
    group_.Sync();
    Clear(shared_.weight);
    Clear(shared_.count);
    __syncthreads();
    return CountMasses<true, false>(part, bins, {}, 0.0f, &shared_);
  }

  // Of this block alone. Ends with its barrier.
  __device__ void EmptyList() {
    if (threadIdx.x == 0) shared_.list.used = shared_.list.size = 0;
    is_sorted_ = false;
    __syncthreads();
  }
  // How many elements all blocks have listed; kTooMany if more than kMaxKeys. After a barrier of
  // the group.
  __device__ int ListSize() {
    list_size_ = SizeOfAll(group_, shared_.list);
    return list_size_ <= kMaxKeys ? list_size_ : kTooMany;
  }
  // In the first block. After ListSize(), and before a barrier of the group.
  __device__ void SortList() {
    if (!is_sorted_) SortAllKeys(group_, shared_.list);
    is_sorted_ = true;
  }

  // The element that `uniform` draws, in the first block; kTooMany in all. REQUIRES: a pass with
  // `bins`, which hold `peak`, the largest logit, and a barrier. If the pass was with counts,
  // `likely` is +inf; if it was not, the list has top_k elements.
  __device__ int Draw(const RowPart& part, const ProfileBins& bins, float peak, float likely,
                      uint64_t added, bool with_counts, const LikelihoodFilters& filters,
                      double uniform);

 private:
  // An element of the sorted list, and the mass through it.
  struct Settled {
    int index;
    uint64_t through;
  };

  // Sums value(bin) through each group of bins, for all blocks. Returns the total.
  template <typename Value>
  __device__ uint64_t SumGroups(const Value& value);
  // The mass of all; 0 if a bin's sum overflowed.
  __device__ uint64_t SumMasses(const ProfileBins& bins, float peak, uint64_t added);

  // Over all blocks.
  __device__ uint64_t BinTotal(const uint32_t (&bins)[kProfileBins], int bin) const {
    uint64_t total = 0;
#pragma unroll
    for (int r = 0; r < Group::kBlocks; ++r) total += *group_.Remote(&bins[bin], r);
    return total;
  }
  // REQUIRES: the bin's weight fits into 32 bits.
  __device__ uint64_t Mass(const ProfileBins& bins, int bin, uint64_t weight) const {
    constexpr float kCellOctaves = kCellWidth * 1.44269504f;
    const auto deeper = static_cast<float>(bins.CellOf(bin) - peak_cell_);
    const float scale = exp2f(__fmaf_rn(deeper, -kCellOctaves, unit_bits_));
    return __float2ull_rn(static_cast<float>(static_cast<uint32_t>(weight)) * scale);
  }
  __device__ uint64_t Mass(const ProfileBins& bins, int bin) const {
    return Mass(bins, bin, BinTotal(shared_.weight, bin));
  }

  static __device__ void Clear(uint32_t (&bins)[kProfileBins]) {
    for (int i = threadIdx.x; i < kProfileBins; i += kSampleThreads) bins[i] = 0;
  }

  // The first bin of a group for which is_it(bin, sum through it) holds; its last if there is none.
  // By all lanes of a warp.
  template <typename Value, typename IsIt>
  __device__ BinSum FindInGroup(int group, const Value& value, const IsIt& is_it) const;
  // The first bin through which the sum reaches the target, which is no more than the total.
  template <typename Value>
  __device__ BinSum BinReaching(uint64_t target, const Value& value) const;
  __device__ BinSum MassReaching(const ProfileBins& bins, uint64_t target) const {
    return BinReaching(target, [&](int bin) { return Mass(bins, bin); });
  }
  __device__ BinSum MassOfBin(const ProfileBins& bins, int bin) const {
    return FindInGroup(
        bin / kGroupBins, [&](int b) { return Mass(bins, b); },
        [=](int b, uint64_t) { return b == bin; });
  }

  static __device__ uint64_t NucleusTarget(float top_p, uint64_t kept) {
    const auto target = static_cast<uint64_t>(ceil(top_p * static_cast<double>(kept)));
    return max(uint64_t{1}, min(target, kept));
  }
  static __device__ uint64_t DrawTarget(double uniform, uint64_t kept) {
    const auto below = static_cast<uint64_t>(uniform * static_cast<double>(kept));
    return max(uint64_t{1}, min(below + 1, kept));
  }
  // By min_p and top_k the row is cut in `cut_bin`, if they cut it. By all lanes of a warp.
  __device__ Ranges FindRanges(const ProfileBins& bins, uint64_t total, int cut_bin, float top_p,
                               double uniform) const;

  // Where the elements before top_k's last one are cut, by counts or by the sorted list. Returns
  // that element's bin, kNoMassBin if top_k keeps all; `ahead` is how many there are before it.
  __device__ int FindTopK(const ProfileBins& bins, int top_k, bool with_counts, int& ahead);

  // Where logits come to lie in `bin` or one before it. By all lanes of a warp.
  static __device__ float LeastLogit(const ProfileBins& bins, int bin) {
    if (bin < 0) return CUDART_INF_F;
    constexpr uint32_t kMinusInf = 0x007fffffu;  // in order
    constexpr uint32_t kInf = 0xff800000u;
    const uint32_t least = WarpSearch(kInf - kMinusInf, [&](uint32_t i) {
      return bins.Bin(FloatOfOrderedBits(kMinusInf + i)) <= bin;
    });
    return FloatOfOrderedBits(kMinusInf + least);
  }
  __device__ void SetBounds(const ProfileBins& bins, const BinRange (&ranges)[3]) {
    const int warp = threadIdx.x / 32;
    if (warp >= 6) return;
    const BinRange& range = ranges[warp / 2];
    const float bound = LeastLogit(bins, range.first > range.last ? -1
                                         : warp % 2 == 0          ? range.last
                                                                  : range.first - 1);
    if (threadIdx.x % 32 == 0) shared_.bounds[warp] = bound;
  }

  // How many of the sorted elements, from the first on, `is_before` holds for. By all lanes of a
  // warp.
  template <typename IsBefore>
  __device__ int ListedBefore(const IsBefore& is_before) const {
    return WarpSearch(list_size_,
                      [&](int i) { return !is_before(LogitOfKey(shared_.list.keys[i])); });
  }
  // The first listed element of a bin no less than `bin`.
  __device__ int ListedFrom(const ProfileBins& bins, int bin) const {
    return ListedBefore([&](float logit) { return bins.Bin(logit) < bin; });
  }
  // By all lanes of one warp.
  __device__ Settled Settle(const ProfileBins& bins, uint64_t target) const;
  __device__ uint64_t MassThrough(const ProfileBins& bins, int bin, int index) const;
  __device__ uint32_t ListedWeight(const ProfileBins& bins, int index) const {
    return ProfileBins::Weight(
        bins.PositionOf(bins.PlaceOf(LogitOfKey(shared_.list.keys[index]))).offset);
  }

  Group group_;
  Collective<Group>& collective_;
  ProfileShared& shared_;
  const int vocab_size_;
  int peak_cell_ = 0;       // that of the largest logit, where a weight of 1 ...
  float unit_bits_ = 0.0f;  // ... is a mass of 2^unit_bits_
  int list_size_ = 0;       // of all blocks
  bool is_sorted_ = false;
};

template <typename Group>
template <typename Value>
__device__ uint64_t LikelihoodProfile<Group>::SumGroups(const Value& value) {
  // As many threads as there are blocks share a group.
  const int thread = group_.rank() * kSampleThreads + static_cast<int>(threadIdx.x);
  const int group = thread / Group::kBlocks;
  const int share = thread % Group::kBlocks;
  uint64_t sum = 0;
#pragma unroll 7
  for (int i = 0; i < kGroupBins; i += Group::kBlocks) {
    if (i + share < kGroupBins) sum += value(group * kGroupBins + i + share);
  }
  uint64_t total = 0;
  const uint64_t before = collective_.ExclusiveSum(sum, total);
  if (share == Group::kBlocks - 1) {
    for (int r = 0; r < Group::kBlocks; ++r) {
      *group_.Remote(&shared_.through[group], r) = before + sum;
    }
  }
  group_.Sync();
  return total;
}

template <typename Group>
template <typename Value, typename IsIt>
__device__ BinSum LikelihoodProfile<Group>::FindInGroup(int group, const Value& value,
                                                        const IsIt& is_it) const {
  const int lane = threadIdx.x % 32;
  const int bin = group * kGroupBins + lane;
  const uint64_t own = lane < kGroupBins ? value(bin) : 0;
  const uint64_t through = (group == 0 ? 0 : shared_.through[group - 1]) + WarpInclusiveSum(own);
  const uint32_t found = __ballot_sync(~0u, lane == kGroupBins - 1 || is_it(bin, through));
  const int chosen = __ffs(found) - 1;
  return {group * kGroupBins + chosen, __shfl_sync(~0u, through - own, chosen),
          __shfl_sync(~0u, through, chosen)};
}

template <typename Group>
template <typename Value>
__device__ BinSum LikelihoodProfile<Group>::BinReaching(uint64_t target, const Value& value) const {
  const int group = WarpSearch(kBinGroups - 1, [&](int g) { return shared_.through[g] >= target; });
  return FindInGroup(group, value, [=](int, uint64_t through) { return through >= target; });
}

// In units that leave a sum over the whole vocabulary below 2^63.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::SumMasses(const ProfileBins& bins, float peak,
                                                        uint64_t added) {
  peak_cell_ = bins.CellOf(bins.Bin(peak));
  unit_bits_ = static_cast<float>(62 - (kWeightBits + 1) - (32 - __clz(vocab_size_)));
  // Bins that wrapped in a block make this a negative multiple of 2^32, and those that would have
  // in one block alone fewer than that: whether a row overflows depends on the row alone.
  uint64_t excess = -added;
  const uint64_t total = SumGroups([&](int bin) {
    const uint64_t weight = BinTotal(shared_.weight, bin);
    excess += weight + (weight >> 32 != 0);
    return Mass(bins, bin, weight);
  });
  return collective_.Sum(excess) == 0 ? total : 0;
}

// The first element through which the mass reaches the target. Its bin is listed as a whole.
template <typename Group>
__device__ auto LikelihoodProfile<Group>::Settle(const ProfileBins& bins, uint64_t target) const
    -> Settled {
  const int lane = threadIdx.x % 32;
  const auto [bin, before, bin_through] = MassReaching(bins, target);
  const uint64_t mass = bin_through - before;
  const int first = ListedFrom(bins, bin);
  const int end = ListedFrom(bins, bin + 1);
  if (first == end) return {end - 1, before + mass};
  // Each lane adds up successive elements of its own; then the lane's that reach the target are
  // added one by one.
  const int each = (end - first + 31) / 32;
  uint32_t own = 0;
  for (int i = first + lane * each; i < min(first + (lane + 1) * each, end); ++i) {
    own += ListedWeight(bins, i);
  }
  const uint64_t through = WarpInclusiveSum(own);
  const uint64_t weights = __shfl_sync(~0u, through, 31);
  const double mass_per_weight = static_cast<double>(mass) / static_cast<double>(weights);
  const auto wanted =
      static_cast<uint64_t>(ceil(static_cast<double>(target - before) / mass_per_weight));
  const uint64_t weight_target = min(wanted, weights);
  const int chosen = __ffs(__ballot_sync(~0u, through >= weight_target)) - 1;
  uint64_t weight = __shfl_sync(~0u, through - own, chosen);
  const int chosen_first = first + chosen * each;
  const int chosen_end = min(chosen_first + each, end);
  for (int row = chosen_first;; row += 32) {
    const uint64_t sum =
        weight + WarpInclusiveSum(row + lane < chosen_end ? ListedWeight(bins, row + lane) : 0);
    const uint32_t reached = __ballot_sync(~0u, sum >= weight_target);
    weight = __shfl_sync(~0u, sum, reached != 0 ? __ffs(reached) - 1 : 31);
    if (reached == 0) continue;
    return {row + __ffs(reached) - 1,
            before + static_cast<uint64_t>(static_cast<double>(weight) * mass_per_weight)};
  }
}

// The mass through the listed element `index` of `bin`; of all before the bin if it is not of it.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::MassThrough(const ProfileBins& bins, int bin,
                                                          int index) const {
  const BinSum sum = MassOfBin(bins, bin);
  const uint64_t before = sum.before;
  const uint64_t mass = sum.through - before;
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
__device__ int LikelihoodProfile<Group>::FindTopK(const ProfileBins& bins, int top_k,
                                                  bool with_counts, int& ahead) {
  if (with_counts) {
    const auto count = [&](int bin) { return BinTotal(shared_.count, bin); };
    if (top_k >= SumGroups(count)) return kNoMassBin;
    const BinSum last = BinReaching(top_k, count);
    ahead = static_cast<int>(last.before);
    return last.bin;
  }
  if (group_.rank() == 0) {
    SortList();
    const int bin = bins.Bin(LogitOfKey(shared_.list.keys[top_k - 1]));
    const int before = ListedFrom(bins, bin);
    if (threadIdx.x < Group::kBlocks) {
      *group_.Remote(&shared_.top_k_bin, threadIdx.x) = bin;
      *group_.Remote(&shared_.ahead, threadIdx.x) = before;
    }
  }
  group_.Sync();
  ahead = shared_.ahead;
  return shared_.top_k_bin;
}

template <typename Group>
__device__ auto LikelihoodProfile<Group>::FindRanges(const ProfileBins& bins, uint64_t total,
                                                     int cut_bin, float top_p, double uniform) const
    -> Ranges {
  Ranges ranges;
  uint64_t least = total;
  uint64_t most = total;
  if (cut_bin < kNoMassBin) {
    const BinSum cut = MassOfBin(bins, cut_bin);
    ranges.cut = {cut_bin, cut_bin};
    least = cut.before;
    most = cut.through;
  }
  if (top_p < 1.0f) {
    const BinSum first = MassReaching(bins, NucleusTarget(top_p, least));
    const BinSum last = most == least ? first : MassReaching(bins, NucleusTarget(top_p, most));
    ranges.nucleus = {first.bin, last.bin};
    least = first.before;
    most = min(most, last.through);
  }
  ranges.drawn = {MassReaching(bins, DrawTarget(uniform, least)).bin,
                  MassReaching(bins, DrawTarget(uniform, most)).bin};
  return ranges;
}

template <typename Group>
__device__ int LikelihoodProfile<Group>::Draw(const RowPart& part, const ProfileBins& bins,
                                              float peak, float likely, uint64_t added,
                                              bool with_counts, const LikelihoodFilters& filters,
                                              double uniform) {
  const bool is_listed = !with_counts && ListSize() != kTooMany;
  // By min_p and top_k: the bin where they cut, if they do.
  int ahead = 0;
  const int top_k_bin =
      filters.top_k > 0 ? FindTopK(bins, filters.top_k, with_counts, ahead) : kNoMassBin;
  const uint64_t total = SumMasses(bins, peak, added);
  if (total == 0) return kTooMany;
  const int min_p_bin = bins.Bin(filters.min_logit);
  const int cut_bin = min(top_k_bin, min_p_bin);
  if (threadIdx.x < 32) {
    const Ranges ranges = FindRanges(bins, total, cut_bin, filters.top_p, uniform);
    if (threadIdx.x == 0) shared_.ranges = ranges;
  }
  __syncthreads();
  const auto [cut, nucleus, drawn] = shared_.ranges;

  // The bins before that of `likely` are listed as a whole.
  const int last_bin = max(cut.last, max(nucleus.last, drawn.last));
  if (!is_listed || last_bin >= bins.Bin(likely)) {
    SetBounds(bins, {nucleus, drawn, cut});
    EmptyList();
    if (cut.last >= 0) {
      ListRanges<true>(part, &shared_);
    } else {
      ListRanges<false>(part, &shared_);
    }
    group_.Sync();
    if (ListSize() == kTooMany) return kTooMany;
  }
  if (group_.rank() > 0) return 0;
  SortList();
  if (threadIdx.x < 32) {
    uint64_t kept = total;
    if (cut_bin < kNoMassBin) {
      int last = list_size_ - 1;
      if (top_k_bin == cut_bin) last = ListedFrom(bins, cut_bin) + (filters.top_k - ahead) - 1;
      if (min_p_bin == cut_bin) {
        const auto stays = [&](float logit) { return logit >= filters.min_logit; };
        last = min(last, ListedBefore(stays) - 1);
      }
      kept = max(uint64_t{1}, MassThrough(bins, cut_bin, last));
    }
    if (filters.top_p < 1.0f) {
      const Settled end = Settle(bins, NucleusTarget(filters.top_p, kept));
      kept = min(kept, end.through);
    }
    const Settled element = Settle(bins, DrawTarget(uniform, kept));
    if (threadIdx.x == 0) shared_.token = IdOfKey(shared_.list.keys[element.index]);
  }
  __syncthreads();
  return shared_.token;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_LIKELIHOOD_PROFILE_CUH_
