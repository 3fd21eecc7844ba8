// Prefill on Hopper's warpgroup matrix instructions.
//
// A block is persistent and has three warpgroups. The first moves data (prefill_producers.cuh); the
// other two own 64 packed query rows each and share every K and V block.
//
// A consumer's step over 64 keys, asynchronous products marked with *:
//   S1 = Q K' *  (issued a step ahead)     S2 = R K' *  (issued a step ahead)
//   wait S1; P = exp2(S1 - m)              wait S2; move m and c when they must
//   O1 += P V *                            PS = P (S2 - c)
//   O2 += PS V *                           next S1 *; wait O1, O2; next S2 *
// With two such warpgroups the matrix unit has work while either exponentiates. Softmax
// attention is the same without S2 and O2.
#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_merge.cuh"
#include "kernels/cuda/parallax_attention/prefill_producers.cuh"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"
#include "kernels/cuda/parallax_attention/prefill_rows.cuh"
#include "kernels/cuda/parallax_attention/prefill_schedule.cuh"
#include "kernels/cuda/parallax_attention/ring_cursor.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"

namespace parallax::kernels::cuda {
namespace {

// Issues s = a k' for a [64][D] tile a of queries and k of keys.
template <int kHeadDim>
__device__ __forceinline__ void IssueScores(uint32_t a, uint32_t k, float (&s)[32]) {
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    const int step = (d / 64 * kHalfBytes + d % 64 * 2) >> 4;
    WgmmaShared(s, a + step, k + step, d > 0);
  }
}

// Issues o += w v for weights w in registers.
template <int kHeadDim>
__device__ __forceinline__ void IssueOutputs(const uint32_t (&w)[4][4], uint32_t v,
                                             float (&o)[kHeadDim / 2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) WgmmaRegisterA(o, w[j], v + ((j * 16 * 128) >> 4));
}

// A consumer warpgroup's work on its tiles.
template <int kHeadDim, bool kProbe>
class Consumer {
 public:
  using Storage = SharedStorage<kHeadDim>;

  // `warp` counts the consumers' warps.
  __device__ Consumer(const PrefillArgs& args, Storage& shared, int warp)
      : args_(args),
        shared_(shared),
        warp_(warp),
        index_(warp / 4),
        lane_(threadIdx.x % 32),
        row_(16 * warp + lane_ / 4) {}

  __device__ __forceinline__ void Run() {
    TileReader<kHeadDim> tiles(shared_);
    PrefillTile tile;
    while (tiles.Next(tile, lane_)) {
      BeginTile(tile);
      const int last_block = (tile.key_end - 1) / kPageSize;
      for (int block = tile.key_begin / kPageSize; block < last_block; ++block) Step<false>(block);
      Step<true>(last_block);
      EndTile(tile);
    }
  }

 private:
  __device__ __forceinline__ void BeginTile(const PrefillTile& tile) {
    rows_.Begin(args_, tile, row_, index_ * kRowsPerGroup, kRowsPerGroup);
    state_.Reset();
#pragma unroll
    for (int j = 0; j < kHeadDim / 2; ++j) o1_[j] = o2_[j] = 0.0f;
    q_ = TileDescriptor(SharedAddress(shared_.q[q_cursor_.stage][index_]), 0);
    r_ = TileDescriptor(SharedAddress(shared_.r[q_cursor_.stage][index_]), 0);
    Wait(SharedAddress(&shared_.q_full[q_cursor_.stage][index_]), q_cursor_.parity);
    WaitKeys();
    WgmmaFence();
    IssueScores<kHeadDim>(q_, KeyDescriptor(), s1_);
    WgmmaCommit();
    if constexpr (kProbe) {
      IssueScores<kHeadDim>(r_, KeyDescriptor(), s2_);
      WgmmaCommit();
      WgmmaWait<1>();
    } else {
      WgmmaWait<0>();
    }
    PinRegisters(s1_);
  }

  template <bool kLast>
  __device__ __forceinline__ void Step(int block) {
    if constexpr (kProbe) {
      ProbeStep<kLast>(block);
    } else {
      SoftmaxStep<kLast>(block);
    }
  }

  template <bool kLast>
  __device__ __forceinline__ void ProbeStep(int block) {
    const bool masked = rows_.IsMasked(block);
    if (masked) rows_.Mask(block * kPageSize, args_.window, lane_, s1_);
    const bool recentre = block % kRecentreInterval == 0;
    const PrefillRowUpdate update = ExponentiateScores(s1_, args_.scale_log2, recentre, state_);
    PinRegisters(s1_);
    WgmmaWait<0>();
    PinRegisters(s2_);
    ReleaseKeys();
    if (kLast) ReleaseQueries();
    if (masked) MaskProbes(s1_, s2_);
    if (__any_sync(0xFFFFFFFF, update.moves[0] || update.moves[1])) {
      MoveReferences(update, s1_, s2_, state_, o1_, o2_);
    }
    uint32_t p[4][4];
    PackWeights(s1_, p);
    WaitValues();
    PinRegisters(o1_);
    WgmmaFence();
    IssueOutputs<kHeadDim>(p, ValueDescriptor(), o1_);
    WgmmaCommit();
    uint32_t ps[4][4];
    PackProbes(s1_, s2_, state_, ps);
    PinRegisters(o2_);
    WgmmaFence();
    IssueOutputs<kHeadDim>(ps, ValueDescriptor(), o2_);
    WgmmaCommit();
    AddPacked(p, state_.d1);
    AddPacked(ps, state_.d2);
    if constexpr (kLast) {
      WgmmaWait<0>();
    } else {
      WaitKeys();
      PinRegisters(s1_);
      WgmmaFence();
      IssueScores<kHeadDim>(q_, KeyDescriptor(), s1_);
      WgmmaCommit();
      WgmmaWait<1>();
    }
    PinRegisters(o1_);
    PinRegisters(o2_);
    ReleaseValues();
    if constexpr (!kLast) {
      PinRegisters(s2_);
      WgmmaFence();
      IssueScores<kHeadDim>(r_, KeyDescriptor(), s2_);
      WgmmaCommit();
      WgmmaWait<1>();
      PinRegisters(s1_);
    }
  }

  template <bool kLast>
  __device__ __forceinline__ void SoftmaxStep(int block) {
    ReleaseKeys();
    if (kLast) ReleaseQueries();
    if (rows_.IsMasked(block)) rows_.Mask(block * kPageSize, args_.window, lane_, s1_);
    const PrefillRowUpdate update = ExponentiateScores(s1_, args_.scale_log2, false, state_);
    if (__any_sync(0xFFFFFFFF, update.moves[0] || update.moves[1])) {
      MoveReferences(update, state_, o1_);
    }
    uint32_t p[4][4];
    PackWeights(s1_, p);
    WaitValues();
    PinRegisters(o1_);
    WgmmaFence();
    IssueOutputs<kHeadDim>(p, ValueDescriptor(), o1_);
    WgmmaCommit();
    AddPacked(p, state_.d1);
    if constexpr (!kLast) {
      WaitKeys();
      PinRegisters(s1_);
      WgmmaFence();
      IssueScores<kHeadDim>(q_, KeyDescriptor(), s1_);
      WgmmaCommit();
      WgmmaWait<0>();
      PinRegisters(s1_);
    } else {
      WgmmaWait<0>();
    }
    PinRegisters(o1_);
    ReleaseValues();
  }

  __device__ __forceinline__ void EndTile(const PrefillTile& tile) {
    // The queries make room for the shelf: all of the warpgroup's products are done with them.
    if (tile.parts > 1) SyncWarpgroup(index_);
    if (warp_ * 16 >= tile.num_rows * args_.group_size) return;
    if (tile.parts > 1 &&
        !MergeParts(
            *args_.workspace, tile.first_part * kConsumerWarps + warp_, kConsumerWarps, tile.part,
            tile.parts, lane_, [&](int i) { return ShelfVector(i); }, state_, o1_, o2_)) {
      return;
    }
    if constexpr (kProbe) {
      FinishRows(state_, o1_, o2_);
    } else {
      FinishRows(state_, o1_);
    }
    StoreRows<kHeadDim>(args_, tile, row_, lane_, o1_);
  }

  // The warp's rows of all query tiles of its warpgroup are as large as its outputs. A block that
  // has a part of a tile has no other tile (part_slots), so none of them is loaded meanwhile.
  __device__ __forceinline__ float4* ShelfVector(int i) const {
    constexpr int kHalves = kHeadDim / 64;
    constexpr int kVectorBytes = 32 * sizeof(float4);
    constexpr int kRowsBytes = kHalfBytes / 4;  // 16 rows of a half
    constexpr int kVectorsAHalf = kRowsBytes / kVectorBytes;
    const int half = i / kVectorsAHalf;  // of all tiles'
    const int tile = half / kHalves;
    const int stage = tile % Storage::kQueryStages;
    uint8_t* const queries =
        tile / Storage::kQueryStages == 0 ? shared_.q[stage][index_] : shared_.r[stage][index_];
    return reinterpret_cast<float4*>(queries + half % kHalves * kHalfBytes +
                                     warp_ % 4 * kRowsBytes + i % kVectorsAHalf * kVectorBytes) +
           lane_;
  }

  __device__ __forceinline__ uint32_t KeyDescriptor() const {
    return TileDescriptor(SharedAddress(shared_.k[k_cursor_.stage]), 0);
  }
  __device__ __forceinline__ uint32_t ValueDescriptor() const {
    return TileDescriptor(SharedAddress(shared_.v[v_cursor_.stage]), kHalfBytes);
  }

  __device__ __forceinline__ void WaitKeys() {
    Wait(SharedAddress(&shared_.k_full[k_cursor_.stage]), k_cursor_.parity);
  }
  __device__ __forceinline__ void WaitValues() {
    Wait(SharedAddress(&shared_.v_full[v_cursor_.stage]), v_cursor_.parity);
  }
  __device__ __forceinline__ void ReleaseKeys() {
    if (lane_ == 0) Arrive(SharedAddress(&shared_.k_empty[k_cursor_.stage]));
    k_cursor_.Advance();
  }
  __device__ __forceinline__ void ReleaseValues() {
    if (lane_ == 0) Arrive(SharedAddress(&shared_.v_empty[v_cursor_.stage]));
    v_cursor_.Advance();
  }
  __device__ __forceinline__ void ReleaseQueries() {
    if (lane_ == 0) Arrive(SharedAddress(&shared_.q_empty[q_cursor_.stage][index_]));
    q_cursor_.Advance();
  }

  const PrefillArgs& args_;
  Storage& shared_;
  const int warp_;
  const int index_;  // of the warpgroup
  const int lane_;
  const int row_;  // the thread's first of the tile's packed rows
  RingCursor<Storage::kQueryStages> q_cursor_;
  RingCursor<Storage::kStages> k_cursor_;
  RingCursor<Storage::kStages> v_cursor_;

  uint32_t q_;  // descriptors of the tile's rows
  uint32_t r_;
  PrefillRowView rows_;
  PrefillRowState state_;
  float s1_[32];
  float s2_[32];
  float o1_[kHeadDim / 2];
  float o2_[kHeadDim / 2];
};

// A thread's registers. A launch of 3 warpgroups has 168 each to deal out again: 504 in all. The
// widest consumers need every one that the producers can do without at the price of spills, and
// producers have time: they work once a tile.
template <int kHeadDim, bool kProbe>
struct RegisterSplit {
  static constexpr int kConsumer = kHeadDim == 128 && kProbe ? 240 : 232;
  static constexpr int kProducer = 3 * 168 - 2 * kConsumer;
};

template <int kHeadDim, bool kProbe>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillWgmmaKernel(const __grid_constant__ PrefillArgs args) {
  using Registers = RegisterSplit<kHeadDim, kProbe>;
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<SharedStorage<kHeadDim>*>(raw);
  if (threadIdx.x == 0) InitBarriers(shared);
  __syncthreads();

  // A warp's lanes are asked, so that the compiler sees what is the same in all of them and keeps
  // descriptors in uniform registers.
  const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
  if (warp < 4) {
    ShrinkRegisters<Registers::kProducer>();
    const int lane = threadIdx.x % 32;
    if (warp == 0) {
      CopyKeysAndValues(args, shared, lane);
    } else if (warp == 1) {
      ScheduleTiles(args, shared, lane);
    } else {
      LoadQueries<kHeadDim, kProbe>(args, shared, warp - 2, lane);
    }
  } else {
    GrowRegisters<Registers::kConsumer>();
    Consumer<kHeadDim, kProbe> consumer(args, shared, warp - 4);
    consumer.Run();
  }
}

template <int kHeadDim, bool kProbe>
void Launch(PrefillArgs args, int64_t tokens_bound, int num_sms, bool programmatic,
            cudaStream_t stream) {
  const auto kernel = PrefillWgmmaKernel<kHeadDim, kProbe>;
  constexpr int kSharedBytes = sizeof(SharedStorage<kHeadDim>);
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
            "parallax_prefill", "cudaFuncSetAttribute");
  const int rows_per_tile = kTileRows / args.group_size;
  int64_t tiles = (tokens_bound / rows_per_tile + args.batch) * args.cache.num_kv_heads;
  if (args.split_keys) {
    args.part_slots = std::min(num_sms, kPartialWarps / kConsumerWarps);
    tiles *= kMostParts;
  }
  const int blocks = static_cast<int>(std::min<int64_t>(tiles, num_sms));
  KernelLaunch launch(blocks, /*cluster=*/1, kThreads, kSharedBytes, stream);
  if (programmatic) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, kernel, args), "parallax_prefill", "launch");
}

template <int kHeadDim>
void LaunchOfDim(const PrefillArgs& args, int64_t tokens_bound, int num_sms, bool programmatic,
                 cudaStream_t stream) {
  if (args.r != nullptr) {
    Launch<kHeadDim, true>(args, tokens_bound, num_sms, programmatic, stream);
  } else {
    Launch<kHeadDim, false>(args, tokens_bound, num_sms, programmatic, stream);
  }
}

}  // namespace

void LaunchPrefillWgmma(const PrefillArgs& args, int64_t tokens_bound, int num_sms,
                        bool programmatic, cudaStream_t stream) {
  if (args.cache.head_dim == 128) {
    LaunchOfDim<128>(args, tokens_bound, num_sms, programmatic, stream);
  } else {
    LaunchOfDim<64>(args, tokens_bound, num_sms, programmatic, stream);
  }
}

}  // namespace parallax::kernels::cuda
