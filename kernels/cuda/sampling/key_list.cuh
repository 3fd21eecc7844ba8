// A list of elements of a row, by likelihood.
//
// Each block of a group pushes to its own; sorted, all are in the first block's. A warp pushes to
// chunks that it takes from the list, so that most pushes wait for nothing: an atomic that returns
// its slot would wait for the loads under way as well.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/shared_atomics.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kKeyChunk = 32;
inline constexpr int kKeyListRoom = 4096;
// So many fit whichever warps push them.
inline constexpr int kMaxKeys = kKeyListRoom - kSampleWarps * (kKeyChunk - 1);
inline constexpr uint64_t kNoKey = ~uint64_t{0};

struct KeyList {
  uint64_t keys[kKeyListRoom];
  uint32_t used;  // of the keys: whole chunks, which end with kNoKey if they are not full
  uint32_t size;  // pushed; some are lost if there was no chunk left
};

// Pushes a warp's elements to its block's list. All lanes of the warp call all functions.
class KeyWriter {
 public:
  __device__ explicit KeyWriter(KeyList* list) : keys_(SharedAddress(list->keys)) {}

  // Those of four elements a lane for which is_wanted(logit) holds. Rarely called: short.
  template <typename IsWanted>
  __device__ __forceinline__ void PushIf(float4 four, int id, const IsWanted& is_wanted) {
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      Push(is_wanted(four.x), four.x, id + j);
      four = make_float4(four.y, four.z, four.w, four.w);
    }
  }

  __device__ __forceinline__ void Finish() const {
    if (threadIdx.x % 32 == 0 && size_ > 0) SharedAdd(keys_ + offsetof(KeyList, size), size_);
  }

 private:
  __device__ __forceinline__ void Push(bool is_wanted, float logit, int id) {
    const uint32_t wanted = __ballot_sync(~0u, is_wanted);
    if (wanted == 0) return;
    const uint32_t count = __popc(wanted);
    size_ += count;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t slot = filled_ + __popc(wanted & ((1u << lane) - 1));
    uint32_t chunk = chunk_;
    if (filled_ + count > kKeyChunk) {
      chunk_ = TakeChunk(lane);
      filled_ -= kKeyChunk;
    }
    filled_ += count;
    chunk = slot < kKeyChunk ? chunk : chunk_;
    if (is_wanted && chunk < kKeyListRoom) {
      SharedStore(keys_ + 8 * (chunk + slot % kKeyChunk), LikelihoodKey(logit, id));
    }
  }

  __device__ uint32_t TakeChunk(uint32_t lane) const {
    uint32_t chunk = 0;
    if (lane == 0) chunk = SharedFetchAdd(keys_ + offsetof(KeyList, used), kKeyChunk);
    chunk = __shfl_sync(~0u, chunk, 0);
    if (chunk < kKeyListRoom) SharedStore(keys_ + 8 * (chunk + lane), kNoKey);
    __syncwarp();
    return chunk;
  }

  uint32_t keys_;
  uint32_t chunk_ = 0;           // being filled, ...
  uint32_t filled_ = kKeyChunk;  // up to here
  uint32_t size_ = 0;
};

// All elements with logits no less than `least`.
__device__ __noinline__ inline void ListFrom(RowPart part, float least, KeyList* list) {
  KeyWriter writer(list);
  const auto is_wanted = [=](float logit) { return logit >= least; };
  part.Stream<1, true>([&](const float4& four, int id) {
    const float max = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
    if (__any_sync(~0u, is_wanted(max))) writer.PushIf(four, id, is_wanted);
  });
  writer.Finish();
}

// Of each search s, the least i in [0, count] for which reached(s, i) holds, which is monotone and
// taken to hold for `count`. Several searches take little more time than one, as they wait
// together. By all lanes of a warp.
template <int kSearches, typename Index, typename Reached>
__device__ void WarpSearches(Index count, const Reached& reached, Index (&found)[kSearches]) {
  const auto lane = static_cast<Index>(threadIdx.x % 32);
  Index first[kSearches] = {};
#pragma unroll
  for (int s = 0; s < kSearches; ++s) found[s] = count;
  bool is_found = count == 0;
  while (!is_found) {
    bool is_reached[kSearches];  // of all before any is looked at
#pragma unroll
    for (int s = 0; s < kSearches; ++s) {
      const Index step = (found[s] - first[s] + 31) / 32;
      const Index end = min(first[s] + (lane + 1) * step, found[s]);
      is_reached[s] = reached(s, end > 0 ? end - 1 : 0);
    }
    is_found = true;
#pragma unroll
    for (int s = 0; s < kSearches; ++s) {
      const Index step = (found[s] - first[s] + 31) / 32;
      const uint32_t hits = __ballot_sync(~0u, is_reached[s]);
      const auto hit = static_cast<Index>(__ffs(hits) - 1);
      if (hits == 0 || first[s] == found[s]) {
        first[s] = found[s];
      } else {
        found[s] = min(first[s] + (hit + 1) * step, found[s]) - 1;
        first[s] += hit * step;
      }
      is_found = is_found && first[s] >= found[s];
    }
  }
}
template <typename Index, typename Reached>
__device__ Index WarpSearch(Index count, const Reached& reached) {
  Index found[1];
  WarpSearches(
      count, [&](int, Index i) { return reached(i); }, found);
  return found[0];
}

// Of the lanes of a warp.
__device__ inline uint64_t WarpInclusiveSum(uint64_t value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t lower = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += lower;
  }
  return value;
}

// A bitonic sort by one block: of kPerThread keys a thread, in registers. What lies beyond `used`
// becomes kNoKey.
template <int kPerThread>
__device__ void SortInRegisters(uint64_t* keys, int used) {
  const int first = threadIdx.x * kPerThread;
  uint64_t own[kPerThread];
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) own[e] = first + e < used ? keys[first + e] : kNoKey;
#pragma unroll 1
  for (int run = 2; run < 2 * used; run *= 2) {  // the first run that holds all keys is the last
#pragma unroll 1
    for (int distance = run / 2; distance >= kPerThread; distance /= 2) {
      const bool takes_lower = ((first & distance) == 0) == ((first & run) == 0);
      const bool is_in_warp = distance < 32 * kPerThread;
      if (!is_in_warp) {
        __syncthreads();
#pragma unroll
        for (int e = 0; e < kPerThread; ++e) keys[first + e] = own[e];
        __syncthreads();
      }
#pragma unroll
      for (int e = 0; e < kPerThread; ++e) {
        const uint64_t other = is_in_warp ? __shfl_xor_sync(~0u, own[e], distance / kPerThread)
                                          : keys[(first ^ distance) + e];
        own[e] = (other < own[e]) == takes_lower ? other : own[e];
      }
    }
#pragma unroll
    for (int distance = kPerThread / 2; distance > 0; distance /= 2) {
      if (distance >= run) continue;
#pragma unroll
      for (int e = 0; e < kPerThread; ++e) {
        if ((e & distance) != 0) continue;
        const uint64_t low = own[e];
        const uint64_t high = own[e + distance];
        const bool swaps = (low > high) == (((first + e) & run) == 0);
        own[e] = swaps ? high : low;
        own[e + distance] = swaps ? low : high;
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) keys[first + e] = own[e];
  __syncthreads();
}

__device__ __noinline__ inline void SortKeys(uint64_t* keys, int used) {
  if (used <= kSampleThreads) {
    SortInRegisters<1>(keys, used);
  } else if (used <= 2 * kSampleThreads) {
    SortInRegisters<2>(keys, used);
  } else if (used <= 4 * kSampleThreads) {
    SortInRegisters<4>(keys, used);
  } else {
    static_assert(kKeyListRoom == 8 * kSampleThreads);
    SortInRegisters<8>(keys, used);
  }
}

// Of all blocks, after a barrier of the group.
template <typename Group>
__device__ int SizeOfAll(const Group& group, KeyList& list) {
  uint32_t size = 0;
#pragma unroll
  for (int r = 0; r < Group::kBlocks; ++r) size += group.Remote(&list, r)->size;
  return static_cast<int>(size);
}

// A chunk of keys, one a lane, to the end of the list; without gaps.
__device__ inline void AppendChunk(KeyList& list, uint64_t key) {
  const int lane = threadIdx.x % 32;
  const auto count = static_cast<uint32_t>(__popc(__ballot_sync(~0u, key != kNoKey)));
  uint32_t begin = 0;
  if (lane == 0) begin = SharedFetchAdd(SharedAddress(&list.used), count);
  begin = __shfl_sync(~0u, begin, 0);
  if (key != kNoKey) list.keys[begin + lane] = key;
}

// Closes the gaps at the ends of the list's chunks. By one block.
__device__ inline void CompactKeys(KeyList& list) {
  constexpr int kEach = kKeyListRoom / kSampleThreads;
  const int used = static_cast<int>(list.used);
  uint64_t own[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = j * kSampleThreads + static_cast<int>(threadIdx.x);
    own[j] = i < used ? list.keys[i] : kNoKey;
  }
  __syncthreads();
  if (threadIdx.x == 0) list.used = 0;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (j * kSampleThreads < used) AppendChunk(list, own[j]);
  }
}

// Appends the other blocks' keys to the first's and sorts them: by the first block, between two
// barriers of the group. REQUIRES: at most kMaxKeys.
template <typename Group>
__device__ void SortAllKeys(const Group& group, KeyList& list) {
  // All blocks' first keys are on their way before any is looked at.
  int used[Group::kBlocks];
  uint64_t first[Group::kBlocks];
#pragma unroll
  for (int r = 1; r < Group::kBlocks; ++r) used[r] = static_cast<int>(group.Remote(&list, r)->used);
#pragma unroll
  for (int r = 1; r < Group::kBlocks; ++r) {
    const bool has_first = static_cast<int>(threadIdx.x) < used[r];
    first[r] = has_first ? group.Remote(&list, r)->keys[threadIdx.x] : kNoKey;
  }
  CompactKeys(list);
#pragma unroll
  for (int r = 1; r < Group::kBlocks; ++r) {
    AppendChunk(list, first[r]);
#pragma unroll 1
    for (int i = kSampleThreads + static_cast<int>(threadIdx.x); i < used[r]; i += kSampleThreads) {
      AppendChunk(list, group.Remote(&list, r)->keys[i]);
    }
  }
  __syncthreads();
  SortKeys(list.keys, static_cast<int>(list.used));
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_KEY_LIST_CUH_
