// For rows that LikelihoodProfile gives up on: of a row's elements in order of likelihood, the
// first through which the running weight reaches a target. top_k is the element at which a count
// reaches k, top_p the one at which the mass reaches p of the whole, the draw the one at which it
// exceeds u of it.
//
// A histogram of kBins bins finds the bin; its elements, if no more than kListSize, are gathered
// in the first block and ranked by counting. Too many (nearly equal logits) are split by their
// keys, 12 bits at a time, until they are few: at most six times.
//
// Weights are integers: sums are exact, so the atomics' order changes nothing.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_RANKING_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_RANKING_CUH_

#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/shared_atomics.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kBins = 4096;
inline constexpr int kBinBits = 12;
inline constexpr int kListSize = kSampleThreads;
inline constexpr int kNoBin = -1;

// What ranks first when (max - logit) * scale is small; the last bin takes all the rest.
struct ByLikelihood {
  float max;
  float scale;  // bins per unit of logit

  __device__ int Bin(float logit) const {
    return static_cast<int>(fminf((max - logit) * scale, kBins - 1.0f));
  }
};

struct CountWeight {
  __device__ uint32_t operator()(float) const { return 1; }
};

// exp((logit - max) / temperature) in units of 2^-29.
struct MassWeight {
  static constexpr float kUnitBits = 29.0f;
  // Where less than half a unit is left: ln(2^30) below the maximum, times the temperature.
  static constexpr float kRange = 20.7945f;

  float max;
  float scale;  // log2(e) / temperature

  __device__ uint32_t operator()(float logit) const {
    float mass;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(mass) : "f"((logit - max) * scale + kUnitBits));
    return __float2uint_rn(mass);
  }
};

struct Crossing {
  int bin;
  uint64_t before;  // weight ahead of the bin
};

struct RankedElement {
  uint64_t key;
  uint64_t through;  // weight up to the element and with it
};

struct RankingShared {
  // Once counted the bins are in registers, and their place is free for the list.
  union {
    struct {
      uint32_t low[kBins];    // weights modulo 2^32 ...
      uint32_t carry[kBins];  // ... and how often they wrapped
    } bins;
    struct {
      uint64_t keys[kListSize];
      uint32_t weights[kListSize];
    } list;
  };
  int list_size;
  Crossing crossing;
  RankedElement found;
};

template <typename Group>
class Ranker {
 public:
  __device__ Ranker(Collective<Group>& collective, RankingShared& shared, const RowPart& part)
      : group_(collective.group()), collective_(collective), shared_(shared), part_(part) {}

  __device__ Collective<Group>& collective() { return collective_; }
  __device__ const RowPart& part() const { return part_; }
  __device__ bool IsLeader() const { return group_.rank() == 0; }

  // Weights of all bins, each thread's own ones with what lies ahead of them.
  static constexpr int kOwnBins = kBins / (kSampleThreads * Group::kBlocks);
  struct Histogram {
    uint64_t before;
    uint64_t weights[kOwnBins];
    uint64_t total;
  };

  // bin_of(logit, id) is a bin, or kNoBin for an element that does not take part.
  template <typename BinOf, typename Weight>
  __device__ Histogram Count(const BinOf& bin_of, const Weight& weight);

  // The bin in which the weight reaches the target; empties the list. REQUIRES: 1 <= target <=
  // total.
  __device__ Crossing Locate(const Histogram& histogram, uint64_t target);

  // Copies the bin's elements into the first block's list; how many there are, which may be more
  // than the list holds. REQUIRES: the list is empty.
  template <typename BinOf, typename Weight>
  __device__ int Gather(const BinOf& bin_of, int bin, const Weight& weight);

  __device__ void EmptyList() {
    if (IsLeader() && threadIdx.x == 0) shared_.list_size = 0;
    group_.Sync();
  }
  // In the first block, between a Gather and the next barrier of the group.
  __device__ uint64_t listed_key(int i) const { return shared_.list.keys[i]; }

  // The listed element at which the weight, `before` ahead of the list, reaches the target.
  __device__ RankedElement Pick(uint64_t before, uint64_t target);

 private:
  // `low` is the shared address of bins.low, which bins.carry follows.
  static __device__ void Add(uint32_t low, int bin, uint32_t weight) {
    const uint32_t old = SharedFetchAdd(low + 4 * bin, weight);
    if (old + weight < old) SharedAdd(low + 4 * (kBins + bin), 1u);
  }

  Group group_;
  Collective<Group>& collective_;
  RankingShared& shared_;
  const RowPart part_;
};

template <typename Group>
template <typename BinOf, typename Weight>
__device__ auto Ranker<Group>::Count(const BinOf& bin_of, const Weight& weight) -> Histogram {
  for (int i = threadIdx.x; i < kBins; i += kSampleThreads)
    shared_.bins.low[i] = shared_.bins.carry[i] = 0;
  __syncthreads();
  const uint32_t low = SharedAddress(shared_.bins.low);
  part_.ForEach([&](float logit, int id) {
    const int bin = bin_of(logit, id);
    if (bin != kNoBin) Add(low, bin, weight(logit));
  });
  group_.Sync();
  Histogram histogram;
  uint64_t own = 0;
#pragma unroll
  for (int j = 0; j < kOwnBins; ++j) {
    const int bin = (group_.rank() * kSampleThreads + threadIdx.x) * kOwnBins + j;
    uint64_t sum = 0;
#pragma unroll
    for (int r = 0; r < Group::kBlocks; ++r) {
      sum += *group_.Remote(&shared_.bins.low[bin], r);
      sum += static_cast<uint64_t>(*group_.Remote(&shared_.bins.carry[bin], r)) << 32;
    }
    histogram.weights[j] = sum;
    own += sum;
  }
  histogram.before = collective_.ExclusiveSum(own, histogram.total);
  return histogram;
}

template <typename Group>
__device__ Crossing Ranker<Group>::Locate(const Histogram& histogram, uint64_t target) {
  if (IsLeader() && threadIdx.x == 0) shared_.list_size = 0;
  uint64_t before = histogram.before;
#pragma unroll
  for (int j = 0; j < kOwnBins; ++j) {
    const uint64_t through = before + histogram.weights[j];
    if (before < target && target <= through) {
      const int bin = (group_.rank() * kSampleThreads + threadIdx.x) * kOwnBins + j;
      for (int r = 0; r < Group::kBlocks; ++r) {
        *group_.Remote(&shared_.crossing, r) = {bin, before};
      }
    }
    before = through;
  }
  group_.Sync();
  return shared_.crossing;
}

template <typename Group>
template <typename BinOf, typename Weight>
__device__ int Ranker<Group>::Gather(const BinOf& bin_of, int bin, const Weight& weight) {
  int* const size = group_.Remote(&shared_.list_size, 0);
  uint64_t* const keys = group_.Remote(shared_.list.keys, 0);
  uint32_t* const weights = group_.Remote(shared_.list.weights, 0);
  part_.ForEach([&](float logit, int id) {
    if (bin_of(logit, id) != bin) return;
    const int slot = atomicAdd(size, 1);
    if (slot >= kListSize) return;
    keys[slot] = LikelihoodKey(logit, id);
    weights[slot] = weight(logit);
  });
  group_.Sync();
  return *size;
}

template <typename Group>
__device__ RankedElement Ranker<Group>::Pick(uint64_t before, uint64_t target) {
  if (IsLeader() && threadIdx.x < shared_.list_size) {
    const uint64_t key = shared_.list.keys[threadIdx.x];
    const uint32_t weight = shared_.list.weights[threadIdx.x];
    uint64_t through = before;
    for (int i = 0; i < shared_.list_size; ++i) {
      if (shared_.list.keys[i] <= key) through += shared_.list.weights[i];
    }
    if (through - weight < target && target <= through) {
      for (int r = 0; r < Group::kBlocks; ++r) {
        *group_.Remote(&shared_.found, r) = {key, through};
      }
    }
  }
  group_.Sync();
  return shared_.found;
}

// The elements that `cut` keeps, in order of likelihood, each with a Weight.
template <typename Group, typename Weight>
class Ranking {
 public:
  __device__ Ranking(Ranker<Group>& ranker, ByLikelihood order, Weight weight, Cut cut)
      : ranker_(ranker), order_(order), weight_(weight), cut_(cut) {
    histogram_ = ranker_.Count(BinOf(), weight_);
  }

  __device__ uint64_t total() const { return histogram_.total; }

  // REQUIRES: 1 <= target <= total().
  __device__ RankedElement Find(uint64_t target) {
    const Crossing crossing = ranker_.Locate(histogram_, target);
    if (ranker_.Gather(BinOf(), crossing.bin, weight_) <= kListSize) {
      return ranker_.Pick(crossing.before, target);
    }
    return FindAmongMany(crossing, target);
  }

 private:
  __device__ auto BinOf() const {
    return [order = order_, cut = cut_](float logit, int id) {
      return cut.Keeps(logit, id) ? order.Bin(logit) : kNoBin;
    };
  }

  // The elements of one bin, split by their keys.
  __device__ RankedElement FindAmongMany(Crossing crossing, uint64_t target) {
    uint64_t first = ~uint64_t{0};
    uint64_t last = 0;
    const auto bin_of = BinOf();
    ranker_.part().ForEach([&](float logit, int id) {
      if (bin_of(logit, id) != crossing.bin) return;
      first = min(first, LikelihoodKey(logit, id));
      last = max(last, LikelihoodKey(logit, id));
    });
    first = ranker_.collective().Min(first);
    last = ranker_.collective().Max(last);
    uint64_t before = crossing.before;
    for (;;) {
      const int shift = max(0, 64 - kBinBits - __clzll(last - first));
      const auto split = [=](float logit, int id) {
        const uint64_t key = LikelihoodKey(logit, id);
        return key < first || key > last ? kNoBin : static_cast<int>((key - first) >> shift);
      };
      const Crossing narrower = ranker_.Locate(ranker_.Count(split, weight_), target - before);
      before += narrower.before;
      if (ranker_.Gather(split, narrower.bin, weight_) <= kListSize) {
        return ranker_.Pick(before, target);
      }
      first += static_cast<uint64_t>(narrower.bin) << shift;
      last = min(last, first + (uint64_t{1} << shift) - 1);
    }
  }

  Ranker<Group>& ranker_;
  const ByLikelihood order_;
  const Weight weight_;
  const Cut cut_;
  typename Ranker<Group>::Histogram histogram_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_RANKING_CUH_
