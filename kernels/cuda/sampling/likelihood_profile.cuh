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
#include "kernels/cuda/sampling/profile_passes.cuh"
#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/survey.cuh"

namespace parallax::kernels::cuda {

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

  // The first pass. Lists the elements no less than `likely`. Logprobs need scores. REQUIRES: no
  // other block still reads what an earlier pass left.
  __device__ ThreadCount Count(const RowPart& part, const ProfileBins& bins, float likely,
                               const MassScale* scored) {
    Clear(shared_.weight);
    EmptyList();
    return scored != nullptr ? CountMasses<false, true>(part, bins, *scored, likely, &shared_)
                             : CountMasses<false, false>(part, bins, {}, likely, &shared_);
  }
  // Instead of the list, elements by bin. REQUIRES: as Count.
  __device__ ThreadCount CountWithCounts(const RowPart& part, const ProfileBins& bins) {
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

  // Sums value(bin) of merged bins through each group of them, in all blocks after the next barrier
  // of the group. Returns the total.
  template <typename Value>
  __device__ uint64_t SumGroups(const Value& value);
  // The mass of all; 0 if a bin's sum overflowed.
  __device__ uint64_t SumMasses(const ProfileBins& bins, float peak, uint64_t added);

  // REQUIRES: weights are merged, and fit.
  __device__ uint64_t Mass(const ProfileBins& bins, int bin) const {
    constexpr float kCellOctaves = kCellWidth * 1.44269504f;
    const auto deeper = static_cast<float>(bins.CellOf(bin) - peak_cell_);
    const float scale = exp2f(__fmaf_rn(deeper, -kCellOctaves, unit_bits_));
    return __float2ull_rn(static_cast<float>(shared_.weight[bin]) * scale);
  }

  static __device__ void Clear(uint32_t (&bins)[kProfileBins]) {
    for (int i = threadIdx.x; i < kProfileBins; i += kSampleThreads) bins[i] = 0;
  }

  // Of each search s, the first bin of groups[s] for which is_it(s, bin, sum through it) holds; its
  // last if there is none. By all lanes of a warp, as those below.
  template <int kSearches, typename Value, typename IsIt>
  __device__ void FindInGroups(const int (&groups)[kSearches], const Value& value,
                               const IsIt& is_it, BinSum (&found)[kSearches]) const;
  // The first bins through which the sum reaches targets, which are no more than the total.
  template <int kSearches, typename Value>
  __device__ void BinsReaching(const uint64_t (&targets)[kSearches], const Value& value,
                               BinSum (&found)[kSearches]) const;
  template <int kSearches>
  __device__ void MassesReaching(const ProfileBins& bins, const uint64_t (&targets)[kSearches],
                                 BinSum (&found)[kSearches]) const {
    BinsReaching(
        targets, [&](int bin) { return Mass(bins, bin); }, found);
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

  // Where top_k cuts, by counts or by the sorted list: in shared_ of all blocks after the next
  // barrier of the group.
  __device__ void FindTopK(const ProfileBins& bins, int top_k, bool with_counts);

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
  // Those of `bin`: from the first up to but not including the second.
  __device__ void ListedOf(const ProfileBins& bins, int bin, int (&ends)[2]) const {
    WarpSearches(
        list_size_,
        [&](int s, int i) { return bins.Bin(LogitOfKey(shared_.list.keys[i])) >= bin + s; }, ends);
  }
  // By all lanes of one warp.
  __device__ Settled Settle(const ProfileBins& bins, uint64_t target) const;
  __device__ uint64_t MassThrough(const ProfileBins& bins, const BinSum& cut, int index) const;
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
  return total;
}

template <typename Group>
template <int kSearches, typename Value, typename IsIt>
__device__ void LikelihoodProfile<Group>::FindInGroups(const int (&groups)[kSearches],
                                                       const Value& value, const IsIt& is_it,
                                                       BinSum (&found)[kSearches]) const {
  const int lane = threadIdx.x % 32;
  uint64_t own[kSearches];
  uint64_t ahead[kSearches];
#pragma unroll
  for (int s = 0; s < kSearches; ++s) {
    const uint64_t of_lane = value(groups[s] * kGroupBins + min(lane, kGroupBins - 1));
    const uint64_t before_group = shared_.through[max(groups[s] - 1, 0)];
    own[s] = lane < kGroupBins ? of_lane : 0;
    ahead[s] = groups[s] > 0 ? before_group : 0;
  }
#pragma unroll
  for (int s = 0; s < kSearches; ++s) {
    const int first = groups[s] * kGroupBins;
    const uint64_t through = ahead[s] + WarpInclusiveSum(own[s]);
    const bool is_chosen = lane == kGroupBins - 1 || is_it(s, first + lane, through);
    const int chosen = __ffs(__ballot_sync(~0u, is_chosen)) - 1;
    found[s] = {first + chosen, __shfl_sync(~0u, through - own[s], chosen),
                __shfl_sync(~0u, through, chosen)};
  }
}

template <typename Group>
template <int kSearches, typename Value>
__device__ void LikelihoodProfile<Group>::BinsReaching(const uint64_t (&targets)[kSearches],
                                                       const Value& value,
                                                       BinSum (&found)[kSearches]) const {
  const uint64_t* const sums = shared_.through;
  int groups[kSearches];
  WarpSearches(
      kBinGroups - 1, [&](int s, int g) { return sums[g] >= targets[s]; }, groups);
  FindInGroups(
      groups, value, [&](int s, int, uint64_t sum) { return sum >= targets[s]; }, found);
}

// In units that leave a sum over the whole vocabulary below 2^63.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::SumMasses(const ProfileBins& bins, float peak,
                                                        uint64_t added) {
  peak_cell_ = bins.CellOf(bins.Bin(peak));
  unit_bits_ = static_cast<float>(62 - (kWeightBits + 1) - (32 - __clz(vocab_size_)));
  // Bins that wrapped in a block make this a negative multiple of 2^32, and those that would have
  // in one block alone fewer than that: whether a row overflows depends on the row alone.
  const uint64_t excess = MergeBins(group_, shared_.weight) - added;
  const uint64_t total = SumGroups([&](int bin) { return Mass(bins, bin); });
  return collective_.Sum(excess) == 0 ? total : 0;
}

// The first element through which the mass reaches the target. Its bin is listed as a whole.
template <typename Group>
__device__ auto LikelihoodProfile<Group>::Settle(const ProfileBins& bins, uint64_t target) const
    -> Settled {
  const int lane = threadIdx.x % 32;
  BinSum found[1];
  MassesReaching(bins, {target}, found);
  const auto [bin, before, bin_through] = found[0];
  const uint64_t mass = bin_through - before;
  int ends[2];
  ListedOf(bins, bin, ends);
  const auto [first, end] = ends;
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

// The mass through the listed element `index` of the cut's bin; of all before the bin if it is not
// of it.
template <typename Group>
__device__ uint64_t LikelihoodProfile<Group>::MassThrough(const ProfileBins& bins,
                                                          const BinSum& cut, int index) const {
  const auto [bin, before, bin_through] = cut;
  const uint64_t mass = bin_through - before;
  int ends[2];
  ListedOf(bins, bin, ends);
  const auto [first, end] = ends;
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
__device__ void LikelihoodProfile<Group>::FindTopK(const ProfileBins& bins, int top_k,
                                                   bool with_counts) {
  if (with_counts) {
    const auto count = [&](int bin) { return uint64_t{shared_.count[bin]}; };
    MergeBins(group_, shared_.count);
    const uint64_t total = SumGroups(count);
    group_.Sync();
    if (threadIdx.x >= 32) return;
    BinSum last[1] = {{kNoMassBin, 0, 0}};
    if (top_k < total) BinsReaching({static_cast<uint64_t>(top_k)}, count, last);
    if (threadIdx.x > 0) return;
    shared_.top_k_bin = last[0].bin;
    shared_.ahead = static_cast<int>(last[0].before);
    return;
  }
  if (group_.rank() > 0) return;
  SortList();
  const int bin = bins.Bin(LogitOfKey(shared_.list.keys[top_k - 1]));
  const int ahead = ListedFrom(bins, bin);
  if (threadIdx.x >= Group::kBlocks) return;
  *group_.Remote(&shared_.top_k_bin, threadIdx.x) = bin;
  *group_.Remote(&shared_.ahead, threadIdx.x) = ahead;
}

template <typename Group>
__device__ auto LikelihoodProfile<Group>::FindRanges(const ProfileBins& bins, uint64_t total,
                                                     int cut_bin, float top_p, double uniform) const
    -> Ranges {
  Ranges ranges = {};
  BinSum cut[1];
  BinSum ends[2];
  uint64_t least = total;
  uint64_t most = total;
  if (cut_bin < kNoMassBin) {
    FindInGroups(
        {cut_bin / kGroupBins}, [&](int bin) { return Mass(bins, bin); },
        [=](int, int bin, uint64_t) { return bin == cut_bin; }, cut);
    ranges.cut = {cut_bin, cut_bin};
    ranges.cut_sum = cut[0];
    least = cut[0].before;
    most = cut[0].through;
  }
  if (top_p < 1.0f) {
    MassesReaching(bins, {NucleusTarget(top_p, least), NucleusTarget(top_p, most)}, ends);
    ranges.nucleus = {ends[0].bin, ends[1].bin};
    least = ends[0].before;
    most = min(most, ends[1].through);
  }
  MassesReaching(bins, {DrawTarget(uniform, least), DrawTarget(uniform, most)}, ends);
  ranges.drawn = {ends[0].bin, ends[1].bin};
  return ranges;
}

template <typename Group>
__device__ int LikelihoodProfile<Group>::Draw(const RowPart& part, const ProfileBins& bins,
                                              float peak, float likely, uint64_t added,
                                              bool with_counts, const LikelihoodFilters& filters,
                                              double uniform) {
  const bool is_listed = !with_counts && ListSize() != kTooMany;
  if (filters.top_k > 0) FindTopK(bins, filters.top_k, with_counts);
  const uint64_t total = SumMasses(bins, peak, added);
  if (total == 0) return kTooMany;
  // By min_p and top_k: the bin where they cut, if they do.
  const int top_k_bin = filters.top_k > 0 ? shared_.top_k_bin : kNoMassBin;
  const int min_p_bin = bins.Bin(filters.min_logit);
  const int cut_bin = min(top_k_bin, min_p_bin);
  if (threadIdx.x < 32) {
    const Ranges ranges = FindRanges(bins, total, cut_bin, filters.top_p, uniform);
    if (threadIdx.x == 0) shared_.ranges = ranges;
  }
  __syncthreads();
  const auto& [cut, nucleus, drawn, cut_sum] = shared_.ranges;

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
      if (top_k_bin == cut_bin)
        last = ListedFrom(bins, cut_bin) + (filters.top_k - shared_.ahead) - 1;
      if (min_p_bin == cut_bin) {
        const auto stays = [&](float logit) { return logit >= filters.min_logit; };
        last = min(last, ListedBefore(stays) - 1);
      }
      kept = max(uint64_t{1}, MassThrough(bins, cut_sum, last));
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
