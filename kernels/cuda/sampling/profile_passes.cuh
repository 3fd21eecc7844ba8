// What LikelihoodProfile has in shared memory, and how it is filled: the first pass over a row,
// which counts masses by bin, the second, which lists the elements of a few bins, and the sums of
// bins over the blocks that share the row.
//
// Thread safety: device code; each function is called by all threads of a block.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_PASSES_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_PASSES_CUH_

#include <math_constants.h>

#include <cstdint>

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
};

// Logits from `least` up to but not including `end`.
struct LogitRange {
  float least;
  float end;
  __device__ __forceinline__ bool Has(float logit) const { return logit >= least && logit < end; }
};

// A bin, and the sum before it and through it.
struct BinSum {
  int bin;
  uint64_t before;
  uint64_t through;
};

// The bins in which min_p or top_k, top_p and the draw can end.
struct Ranges {
  BinRange cut;
  BinRange nucleus;
  BinRange drawn;
  BinSum cut_sum;  // of the cut's bin, if there is one
};

struct ProfileShared {
  alignas(16) uint32_t weight[kProfileBins];
  uint64_t through[kBinGroups];  // of a group of bins and all before it, masses or counts
  union {
    alignas(16) uint32_t count[kProfileBins];  // if top_k needs them: elements of a bin
    struct {
      TileSums sums;
      KeyList list;
    };
  };
  uint32_t nowhere[32];  // takes what has no bin
  float bounds[6];       // of three ranges of the second pass: least, end, ...
  Ranges ranges;
  int top_k_bin;  // where top_k cuts; kNoMassBin if it keeps all
  int ahead;      // elements before that bin
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

// Adds up every bin over all blocks, in all of them: a block those bins that it then sums by
// groups, four at once, as remote memory is read and written in whole sectors. Returns the sum of
// this block's bins, and one more for each that does not fit into 32 bits. Ends with this block's
// barrier; between two barriers of the group.
template <typename Group>
__device__ __noinline__ uint64_t MergeBins(Group group, uint32_t* bins) {
  constexpr int kFours = kProfileBins / Group::kBlocks / 4;
  static_assert(kFours * Group::kBlocks * 4 == kProfileBins);
  constexpr int kOwn = (kFours + kSampleThreads - 1) / kSampleThreads;
  const int thread = static_cast<int>(threadIdx.x);
  uint4* const own = reinterpret_cast<uint4*>(bins) + group.rank() * kFours + thread;
  // Of this block first, then of the next: not all ask the same block at once.
  const auto four_of = [&](int i, int r) {
    uint4* const four = own + i * kSampleThreads;
    return r == 0 ? four : group.Remote(four, (group.rank() + r) % Group::kBlocks);
  };
  // All are on their way before any is looked at.
  uint4 fours[kOwn][Group::kBlocks];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int r = 0; r < Group::kBlocks; ++r) {
      const bool is_own = thread + i * kSampleThreads < kFours;
      fours[i][r] = is_own ? *four_of(i, r) : make_uint4(0, 0, 0, 0);
    }
  }
  uint64_t seen = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    uint64_t sums[4] = {};
#pragma unroll
    for (int r = 0; r < Group::kBlocks; ++r) {
      sums[0] += fours[i][r].x;
      sums[1] += fours[i][r].y;
      sums[2] += fours[i][r].z;
      sums[3] += fours[i][r].w;
    }
#pragma unroll
    for (const uint64_t sum : sums) seen += sum + (sum >> 32 != 0);
    if (Group::kBlocks == 1 || thread + i * kSampleThreads >= kFours) continue;
    const uint4 merged = make_uint4(static_cast<uint32_t>(sums[0]), static_cast<uint32_t>(sums[1]),
                                    static_cast<uint32_t>(sums[2]), static_cast<uint32_t>(sums[3]));
#pragma unroll
    for (int r = 0; r < Group::kBlocks; ++r) *four_of(i, r) = merged;
  }
  if (Group::kBlocks > 1) __syncthreads();
  return seen;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_PASSES_CUH_
