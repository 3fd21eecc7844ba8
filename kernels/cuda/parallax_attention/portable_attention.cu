// Parallax attention on the matrix instructions of sm_80: prefill and decode for GPUs that have
// no kernel of their own. Correct everywhere, tuned nowhere.
//
// A block works on one tile of 64 packed query rows, four warps of 16, over pages that all of them
// read from two buffers in shared memory. A warp steps over 32 keys at a time: S1 = Q K', S2 = R
// K', weights, O1 += P V, O2 += P (S2 - c) V. A fragments of a product's input have the arrangement
// of its predecessor's output, so nothing but Q, R, K and V passes through shared memory.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_merge.cuh"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"
#include "kernels/cuda/parallax_attention/prefill_rows.cuh"
#include "kernels/cuda/parallax_attention/prefill_schedule.cuh"
#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "parallax_attention";
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16 * kWarps;
constexpr int kStepKeys = 32;  // of a page's 64

// Blocks in the arrangement of paged_kv_cache.h.
template <int kHeadDim>
struct SharedBlocks {
  static constexpr int kBlockBytes = kPageSize * kHeadDim * 2;

  uint8_t q[kBlockBytes];
  uint8_t r[kBlockBytes];
  uint8_t k[2][kBlockBytes];
  uint8_t v[2][kBlockBytes];
};

// Starts copying a page's K and V of the tile's head, by the whole block of threads. Values that
// nothing sees become zeros: they must not meet even a zero weight.
template <int kHeadDim>
__device__ void CopyPage(const PrefillArgs& args, const PrefillTile& tile, int block, uint32_t k,
                         uint32_t v) {
  const int64_t page = args.block_tables[tile.sequence * args.max_blocks + block];
  const auto* const keys = args.cache.data + args.cache.k_block_offset(page, tile.kv_head);
  const auto* const values = args.cache.data + args.cache.v_block_offset(page, tile.kv_head);
  for (int chunk = threadIdx.x; chunk < kPageSize * kHeadDim / 8; chunk += kThreads) {
    const int key = block * kPageSize + chunk / 8 % kPageSize;
    CopyAsync(k + chunk * 16, keys + chunk * 8);
    CopyAsyncOrZero(v + chunk * 16, values + chunk * 8,
                    key >= tile.key_begin && key < tile.key_end);
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A product's accumulator of columns 8 * column .. + 7.
template <int kSize>
__device__ __forceinline__ float (&Columns(float (&d)[kSize], int column))[4] {
  return reinterpret_cast<float(&)[4]>(d[4 * column]);
}

// s = a k' for the warp's 16 rows of block a, from row a_row on, and the keys of block k from
// key_row on.
template <int kHeadDim, int kSize>
__device__ __forceinline__ void MultiplyKeys(uint32_t a, int a_row, uint32_t k, int key_row,
                                             int lane, float (&s)[kSize]) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) s[j] = 0.0f;
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    uint32_t rows[4];
    LoadMatrices(rows, a + ChunkOffset(a_row + lane % 16, d / 8 + lane / 16));
#pragma unroll
    for (int column = 0; column < kSize / 4; column += 2) {
      uint32_t keys[4];
      const int key = key_row + column * 8 + lane / 16 * 8 + lane % 8;
      LoadMatrices(keys, k + ChunkOffset(key, d / 8 + lane / 8 % 2));
      MultiplyAdd(Columns(s, column), rows, keys[0], keys[1]);
      MultiplyAdd(Columns(s, column + 1), rows, keys[2], keys[3]);
    }
  }
}

// o += w v for weights over the keys of block v from key_row on.
template <int kSteps, int kSize>
__device__ __forceinline__ void MultiplyValues(const uint32_t (&w)[kSteps][4], uint32_t v,
                                               int key_row, int lane, float (&o)[kSize]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int column = 0; column < kSize / 4; column += 2) {
      uint32_t values[4];
      LoadMatricesTransposed(values,
                             v + ChunkOffset(key_row + step * 16 + lane % 16, column + lane / 16));
      MultiplyAdd(Columns(o, column), w[step], values[0], values[1]);
      MultiplyAdd(Columns(o, column + 1), w[step], values[2], values[3]);
    }
  }
}

// One warp's 16 rows of a tile.
template <int kHeadDim, bool kProbe>
class WarpRows {
 public:
  __device__ WarpRows(const PrefillArgs& args, const PrefillTile& tile, uint32_t q, uint32_t r)
      : args_(args), tile_(tile), q_(q), r_(r), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32) {
    rows_.Begin(args, tile, 16 * warp_ + lane_ / 4, 16 * warp_, 16);
    state_.Reset();
#pragma unroll
    for (int j = 0; j < kHeadDim / 2; ++j) o1_[j] = o2_[j] = 0.0f;
    Load(args.q, args.q_stride, q);
    if (kProbe) Load(args.r, args.r_stride, r);
  }

  // Tiles need not be full.
  __device__ bool IsEmpty() const { return 16 * warp_ >= tile_.num_rows * args_.group_size; }

  // Folds in a page whose K and V lie in these blocks.
  __device__ __forceinline__ void AddPage(int block, uint32_t k, uint32_t v) {
#pragma unroll 1
    for (int key = 0; key < kPageSize; key += kStepKeys) AddKeys(block, key, k, v);
  }

  // `shared` is the block's, of which all warps are done with K and V, and each with the queries.
  __device__ __forceinline__ void Finish(SharedBlocks<kHeadDim>& shared) {
    constexpr int kVectors = kHeadDim / 4;  // of a lane's outputs
    static_assert(kWarps * 32 * kVectors * sizeof(float4) <= sizeof(shared.k) + sizeof(shared.v));
    float4* const shelf = reinterpret_cast<float4*>(shared.k[0]) + warp_ * kVectors * 32 + lane_;
    if (tile_.parts > 1 &&
        !MergeParts(
            *args_.workspace, tile_.first_part * kWarps + warp_, kWarps, tile_.part, tile_.parts,
            lane_, [&](int i) { return shelf + i * 32; }, state_, o1_, o2_)) {
      return;
    }
    if constexpr (kProbe) {
      FinishRows(state_, o1_, o2_);
    } else {
      FinishRows(state_, o1_);
    }
    StoreRows<kHeadDim>(args_, tile_, 16 * warp_ + lane_ / 4, lane_, o1_);
  }

 private:
  __device__ void Load(const __nv_bfloat16* source, int64_t stride, uint32_t block) {
    LoadRows<kHeadDim, 16>(source, stride, tile_, args_.group_size, 16 * warp_, block, 16 * warp_,
                           lane_);
  }

  __device__ __forceinline__ void AddKeys(int block, int key, uint32_t k, uint32_t v) {
    const bool masked = rows_.IsMasked(block);
    float s1[kStepKeys / 2];
    MultiplyKeys<kHeadDim>(q_, 16 * warp_, k, key, lane_, s1);
    if (masked) rows_.Mask(block * kPageSize + key, args_.window, lane_, s1);
    const bool recentre = kProbe && key == 0 && block % kRecentreInterval == 0;
    const PrefillRowUpdate update = ExponentiateScores(s1, args_.scale_log2, recentre, state_);
    const bool moves = __any_sync(0xFFFFFFFF, update.moves[0] || update.moves[1]);
    uint32_t weights[kStepKeys / 16][4];
    if constexpr (kProbe) {
      float s2[kStepKeys / 2];
      MultiplyKeys<kHeadDim>(r_, 16 * warp_, k, key, lane_, s2);
      if (masked) MaskProbes(s1, s2);
      if (moves) MoveReferences(update, s1, s2, state_, o1_, o2_);
      PackProbes(s1, s2, state_, weights);
      AddPacked(weights, state_.d2);
      MultiplyValues(weights, v, key, lane_, o2_);
    } else {
      if (moves) MoveReferences(update, state_, o1_);
    }
    PackWeights(s1, weights);
    AddPacked(weights, state_.d1);
    MultiplyValues(weights, v, key, lane_, o1_);
  }

  const PrefillArgs& args_;
  const PrefillTile& tile_;
  const uint32_t q_;  // shared address of the tile's rows
  const uint32_t r_;
  const int lane_;
  const int warp_;
  PrefillRowView rows_;
  PrefillRowState state_;
  float o1_[kHeadDim / 2];
  float o2_[kHeadDim / 2];
};

template <int kHeadDim, bool kProbe>
__global__ void __launch_bounds__(kThreads)
    PortableAttentionKernel(const __grid_constant__ PrefillArgs args) {
  extern __shared__ __align__(128) uint8_t raw[];
  auto& shared = *reinterpret_cast<SharedBlocks<kHeadDim>*>(raw);
  const PrefillTile tile = FindTile<kTileRows>(args, blockIdx.x, threadIdx.x % 32);
  if (tile.sequence < 0) return;

  WarpRows<kHeadDim, kProbe> rows(args, tile, SharedAddress(shared.q), SharedAddress(shared.r));
  const auto copy = [&](int block, int stage) {
    CopyPage<kHeadDim>(args, tile, block, SharedAddress(shared.k[stage]),
                       SharedAddress(shared.v[stage]));
  };
  const int first_block = tile.key_begin / kPageSize;
  const int last_block = (tile.key_end - 1) / kPageSize;
  copy(first_block, 0);
  for (int block = first_block; block <= last_block; ++block) {
    const int stage = (block - first_block) % 2;
    if (block < last_block) {
      copy(block + 1, 1 - stage);
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    if (!rows.IsEmpty()) {
      rows.AddPage(block, SharedAddress(shared.k[stage]), SharedAddress(shared.v[stage]));
    }
    __syncthreads();
  }
  if (!rows.IsEmpty()) rows.Finish(shared);
}

template <int kHeadDim, bool kProbe>
void Launch(PrefillArgs args, int64_t tokens_bound, cudaStream_t stream) {
  const auto kernel = PortableAttentionKernel<kHeadDim, kProbe>;
  constexpr int kSharedBytes = sizeof(SharedBlocks<kHeadDim>);
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
            kOp, "cudaFuncSetAttribute");
  const int rows_per_tile = kTileRows / args.group_size;
  int64_t blocks = (tokens_bound / rows_per_tile + args.batch) * args.cache.num_kv_heads;
  if (args.split_keys) {
    args.part_slots = kPartialWarps / kWarps;
    blocks = std::max(blocks, std::min<int64_t>(blocks * kMostParts, args.part_slots));
  }
  kernel<<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream>>>(args);
  CheckLaunch(kOp);
}

template <int kHeadDim>
void LaunchOfDim(const PrefillArgs& args, int64_t tokens_bound, cudaStream_t stream) {
  if (args.r != nullptr) {
    Launch<kHeadDim, true>(args, tokens_bound, stream);
  } else {
    Launch<kHeadDim, false>(args, tokens_bound, stream);
  }
}

}  // namespace

void LaunchPortableAttention(const PrefillArgs& args, int64_t tokens_bound, cudaStream_t stream) {
  if (args.cache.head_dim == 128) {
    LaunchOfDim<128>(args, tokens_bound, stream);
  } else {
    LaunchOfDim<64>(args, tokens_bound, stream);
  }
}

}  // namespace parallax::kernels::cuda
