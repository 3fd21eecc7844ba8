// The blocks that sample one row together: one block, or a cluster of them (cluster_group.cuh).
//
// A Group has kBlocks, rank(), Sync() (a barrier of all threads of all its blocks, which makes
// their shared memory visible to each other) and Remote(pointer, rank) (the same variable in
// another block's shared memory). All threads call all of them together.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_BLOCK_GROUP_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_BLOCK_GROUP_CUH_

#include <cstdint>

namespace parallax::kernels::cuda {

inline constexpr int kSampleThreads = 512;
inline constexpr int kSampleWarps = kSampleThreads / 32;

struct SingleBlock {
  static constexpr int kBlocks = 1;
  __device__ int rank() const { return 0; }
  __device__ void Sync() const { __syncthreads(); }
  template <typename T>
  __device__ T* Remote(T* pointer, int) const {
    return pointer;
  }
};

// Values that a Group's blocks exchange. Two mailboxes take turns: by the time one is written
// again, every thread has passed the barrier that follows its last reading.
template <typename Group>
struct GroupScratch {
  uint64_t mailbox[2][Group::kBlocks];
  uint64_t warps[kSampleWarps];
};

template <typename Group>
class Collective {
 public:
  __device__ Collective(Group group, GroupScratch<Group>& scratch)
      : group_(group), scratch_(scratch) {}

  // op over all threads' values, known to all. op is associative and commutative.
  template <typename Op>
  __device__ uint64_t AllReduce(uint64_t value, Op op) {
    value = op(value, Shuffle<16>(value));
    value = op(value, Shuffle<8>(value));
    value = op(value, Shuffle<4>(value));
    value = op(value, Shuffle<2>(value));
    value = op(value, Shuffle<1>(value));
    if (threadIdx.x % 32 == 0) scratch_.warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch_.warps[threadIdx.x % kSampleWarps];
    value = op(value, Shuffle<8>(value));
    value = op(value, Shuffle<4>(value));
    value = op(value, Shuffle<2>(value));
    value = op(value, Shuffle<1>(value));
    const uint64_t* const values = Exchange(value);
    value = values[0];
    for (int r = 1; r < Group::kBlocks; ++r) value = op(value, values[r]);
    return value;
  }

  __device__ uint64_t Min(uint64_t value) {
    return AllReduce(value, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  }
  __device__ uint64_t Max(uint64_t value) {
    return AllReduce(value, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }
  __device__ uint64_t Sum(uint64_t value) {
    return AllReduce(value, [](uint64_t a, uint64_t b) { return a + b; });
  }

  // Of this block's warps' values, lane i gets that of warp i % kSampleWarps.
  __device__ uint32_t WarpValues(uint32_t value) {
    if (threadIdx.x % 32 == 0) scratch_.warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = static_cast<uint32_t>(scratch_.warps[threadIdx.x % kSampleWarps]);
    __syncthreads();
    return value;
  }

  // The sum of the values of the threads before this one, in order of (rank, thread).
  __device__ uint64_t ExclusiveSum(uint64_t value, uint64_t& total) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    uint64_t through = value;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t lower = __shfl_up_sync(~0u, through, offset);
      if (lane >= offset) through += lower;
    }
    if (lane == 31) scratch_.warps[warp] = through;
    __syncthreads();
    uint64_t before = through - value;
    uint64_t block = 0;
    for (int w = 0; w < kSampleWarps; ++w) {
      if (w < warp) before += scratch_.warps[w];
      block += scratch_.warps[w];
    }
    const uint64_t* const blocks = Exchange(block);
    total = 0;
    for (int r = 0; r < Group::kBlocks; ++r) {
      if (r < group_.rank()) before += blocks[r];
      total += blocks[r];
    }
    return before;
  }

  __device__ const Group& group() const { return group_; }

 private:
  template <int kMask>
  static __device__ uint64_t Shuffle(uint64_t value) {
    return __shfl_xor_sync(~0u, value, kMask);
  }

  // Every block's value, by rank.
  __device__ const uint64_t* Exchange(uint64_t value) {
    uint64_t* const mailbox = scratch_.mailbox[turn_];
    turn_ ^= 1;
    if (threadIdx.x < Group::kBlocks) *group_.Remote(&mailbox[group_.rank()], threadIdx.x) = value;
    group_.Sync();
    return mailbox;
  }

  Group group_;
  GroupScratch<Group>& scratch_;
  int turn_ = 0;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_BLOCK_GROUP_CUH_
