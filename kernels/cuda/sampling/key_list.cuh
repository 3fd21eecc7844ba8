// A list of elements of a row, by likelihood.
//
// Each block of a group pushes to its own; sorted, all are in the first block's.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_

#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/shared_atomics.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kKeyListSize = 4096;

struct KeyList {
  uint64_t keys[kKeyListSize];
  uint32_t size;  // pushed: more than there is room for if it overflowed
  int sorted;     // in the first block: of all blocks
};

// Pushes to this block's list.
class KeyWriter {
 public:
  __device__ explicit KeyWriter(const KeyList* list) : keys_(SharedAddress(list->keys)) {}

  __device__ __forceinline__ void Push(float logit, int id) const {
    const uint32_t slot = SharedFetchAdd(keys_ + sizeof(KeyList::keys), 1);
    if (slot < kKeyListSize) SharedStore(keys_ + 8 * slot, LikelihoodKey(logit, id));
  }
  // Those of four successive elements for which is_wanted(logit) holds. Rarely called: short.
  template <typename IsWanted>
  __device__ __forceinline__ void PushIf(float4 four, int id, const IsWanted& is_wanted) const {
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      if (is_wanted(four.x)) Push(four.x, id + j);
      four = make_float4(four.y, four.z, four.w, four.w);
    }
  }
  __device__ __forceinline__ void PushFrom(float least, const float4& four, int id) const {
    PushIf(four, id, [=](float logit) { return logit >= least; });
  }

 private:
  uint32_t keys_;  // `size` follows
};

// All elements with logits no less than `least`.
__device__ __noinline__ inline void ListFrom(RowPart part, float least, KeyList* list) {
  const KeyWriter writer(list);
  part.Stream<2, true>([&](const float4& four, int id) {
    const float max = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
    if (max >= least) writer.PushFrom(least, four, id);
  });
}

// The least i in [0, count] for which reached(i) holds, which is monotone and taken to hold for
// `count`. By all lanes of a warp.
template <typename Index, typename Reached>
__device__ Index WarpSearch(Index count, const Reached& reached) {
  const auto lane = static_cast<Index>(threadIdx.x % 32);
  Index first = 0;
  Index end = count;
  while (first < end) {
    const Index step = (end - first + 31) / 32;
    const Index at = min(first + (lane + 1) * step, end) - 1;
    const uint32_t hits = __ballot_sync(~0u, reached(at));
    if (hits == 0) return end;
    const auto hit = static_cast<Index>(__ffs(hits) - 1);
    end = min(first + (hit + 1) * step, end) - 1;
    first += hit * step;
  }
  return end;
}

// Bitonic, by one block.
__device__ inline void SortKeys(KeyList& list) {
  const int size = 1 << (32 - __clz(max(list.sorted, 2) - 1));
  for (int i = list.sorted + threadIdx.x; i < size; i += kSampleThreads) {
    list.keys[i] = ~uint64_t{0};
  }
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kSampleThreads) {
        const int i = 2 * (pair & ~(distance - 1)) + (pair & (distance - 1));
        const uint64_t low = list.keys[i];
        const uint64_t high = list.keys[i + distance];
        if ((low > high) == ((i & run) == 0)) {
          list.keys[i] = high;
          list.keys[i + distance] = low;
        }
      }
      // Up to a distance of 32 a warp's pairs lie among keys of its own.
      const int next = distance > 1 ? distance / 2 : run;
      if (distance > 32 || next > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

template <typename Group>
__device__ int SizeOfAll(const Group& group, KeyList& list) {
  int size = 0;
#pragma unroll
  for (int r = 0; r < Group::kBlocks; ++r) size += static_cast<int>(group.Remote(&list, r)->size);
  return size;
}

// Appends the other blocks' lists to the first's and sorts it: by the first block, between two
// barriers of the group. REQUIRES: there is room for all.
template <typename Group>
__device__ void SortAllKeys(const Group& group, KeyList& list) {
  int size = static_cast<int>(list.size);
#pragma unroll
  for (int r = 1; r < Group::kBlocks; ++r) {
    const KeyList* const other = group.Remote(&list, r);
    const auto count = static_cast<int>(other->size);
    for (int i = threadIdx.x; i < count; i += kSampleThreads) list.keys[size + i] = other->keys[i];
    size += count;
  }
  if (threadIdx.x == 0) list.sorted = size;
  __syncthreads();
  SortKeys(list);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_
