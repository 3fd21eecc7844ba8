// Prefill on Hopper's warpgroup matrix instructions.
//
// A block is persistent and has three warpgroups. The first only moves data: one warp copies K
// and V blocks into a ring (a page's block of one head is one bulk copy and lands as the tile
// wgmma reads), two load the query rows, one finds the next tile. The other two own 64 packed
// query rows each and share every K and V block.
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
#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_barrier.cuh"
#include "kernels/cuda/parallax_attention/prefill_merge.cuh"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"
#include "kernels/cuda/parallax_attention/prefill_rows.cuh"
#include "kernels/cuda/parallax_attention/prefill_schedule.cuh"
#include "kernels/cuda/parallax_attention/prefill_wgmma.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr int kRowsPerGroup = 64;  // packed query rows a consumer warpgroup owns
constexpr int kConsumers = 2;      // consumer warpgroups
constexpr int kTileRows = kRowsPerGroup * kConsumers;
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kConsumerWarps = 4 * kConsumers;
constexpr int kTileSlots = 2;  // tiles known ahead

template <int kHeadDim>
struct alignas(1024) SharedStorage {
  static constexpr int kBlockBytes = 64 * kHeadDim * 2;  // one K, V, Q or R tile
  static constexpr int kStages = kHeadDim == 128 ? 5 : 8;

  uint8_t q[kConsumers][kBlockBytes];
  uint8_t r[kConsumers][kBlockBytes];
  uint8_t k[kStages][kBlockBytes];
  uint8_t v[kStages][kBlockBytes];

  uint64_t k_full[kStages], k_empty[kStages];
  uint64_t v_full[kStages], v_empty[kStages];
  uint64_t q_full[kConsumers], q_empty[kConsumers];
  uint64_t tile_full[kTileSlots], tile_empty[kTileSlots];
  PrefillTile tiles[kTileSlots];
};

template <int kHeadDim>
__device__ void InitBarriers(SharedStorage<kHeadDim>& shared) {
  using Storage = SharedStorage<kHeadDim>;
  for (int i = 0; i < Storage::kStages; ++i) {
    BarrierInit(SharedAddress(&shared.k_full[i]), 1);
    BarrierInit(SharedAddress(&shared.v_full[i]), 1);
    BarrierInit(SharedAddress(&shared.k_empty[i]), kConsumerWarps);
    BarrierInit(SharedAddress(&shared.v_empty[i]), kConsumerWarps);
  }
  for (int i = 0; i < kConsumers; ++i) {
    BarrierInit(SharedAddress(&shared.q_full[i]), 1);
    BarrierInit(SharedAddress(&shared.q_empty[i]), 4);
  }
  for (int i = 0; i < kTileSlots; ++i) {
    BarrierInit(SharedAddress(&shared.tile_full[i]), 1);
    // The copying warp, a query loader for each consumer, the consumers' warps.
    BarrierInit(SharedAddress(&shared.tile_empty[i]), 1 + kConsumers + kConsumerWarps);
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Hands out the tiles a block works on, in the order its scheduler warp found them.
template <int kHeadDim>
class TileReader {
 public:
  __device__ explicit TileReader(SharedStorage<kHeadDim>& shared) : shared_(shared) {}

  // False after the last tile. Called by a warp.
  __device__ __forceinline__ bool Next(PrefillTile& tile, int lane) {
    BarrierWait(SharedAddress(&shared_.tile_full[cursor_.stage]), cursor_.parity);
    tile = shared_.tiles[cursor_.stage];
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&shared_.tile_empty[cursor_.stage]));
    cursor_.Advance();
    return tile.sequence >= 0;
  }

 private:
  SharedStorage<kHeadDim>& shared_;
  RingCursor<kTileSlots> cursor_;
};

// The scheduler warp.
template <int kHeadDim>
__device__ void ScheduleTiles(const PrefillArgs& args, SharedStorage<kHeadDim>& shared, int lane) {
  RingCursor<kTileSlots> cursor;
  uint32_t rank = blockIdx.x;
  while (true) {
    const PrefillTile tile = FindTile<kTileRows>(args, rank, lane);
    BarrierWait(SharedAddress(&shared.tile_empty[cursor.stage]), cursor.parity ^ 1);
    if (lane == 0) {
      shared.tiles[cursor.stage] = tile;
      BarrierArrive(SharedAddress(&shared.tile_full[cursor.stage]));
    }
    cursor.Advance();
    if (tile.sequence < 0) break;
    if (lane == 0) rank = gridDim.x + atomicAdd(&args.workspace->counters.next_tile, 1);
    rank = __shfl_sync(0xFFFFFFFF, rank, 0);
  }
  if (lane == 0) {
    __threadfence();
    if (atomicAdd(&args.workspace->counters.blocks_done, 1) == gridDim.x - 1) {
      args.workspace->counters.next_tile = 0;
      args.workspace->counters.blocks_done = 0;
    }
  }
}

// Zeroes rows [0, first) and [last, 64) of a tile and copies the others: what lies in slots that
// nothing sees must not meet even a zero weight.
template <int kHeadDim>
__device__ void CopyVisibleRows(uint32_t tile, const __nv_bfloat16* source, int first, int last,
                                uint32_t barrier, int lane) {
  for (int half = 0; half < kHeadDim / 64; ++half) {
    for (int chunk = lane; chunk < 64 * 8; chunk += 32) {
      if (chunk / 8 >= first && chunk / 8 < last) continue;
      asm volatile(
          "st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(tile + half * kHalfBytes + chunk * 16),
          "r"(0)
          : "memory");
    }
  }
  FenceAsyncProxy();
  __syncwarp();
  if (lane == 0) {
    const uint32_t bytes = (last - first) * 128;
    BarrierArriveExpect(barrier, bytes * (kHeadDim / 64));
    for (int half = 0; half < kHeadDim / 64; ++half) {
      BulkCopy(tile + half * kHalfBytes + first * 128, source + half * 4096 + first * 64, bytes,
               barrier);
    }
  }
  __syncwarp();
}

// The copying warp.
template <int kHeadDim>
__device__ void CopyKeysAndValues(const PrefillArgs& args, SharedStorage<kHeadDim>& shared,
                                  int lane) {
  using Storage = SharedStorage<kHeadDim>;
  RingCursor<Storage::kStages> cursor;
  TileReader<kHeadDim> tiles(shared);
  PrefillTile tile;
  while (tiles.Next(tile, lane)) {
    const int32_t* const pages = args.block_tables + tile.sequence * args.max_blocks;
    const int last_block = (tile.key_end - 1) / kPageSize;
    for (int block = tile.key_begin / kPageSize; block <= last_block; ++block) {
      const int64_t page = pages[block];
      const int first = max(tile.key_begin - block * kPageSize, 0);
      const int last = min(tile.key_end - block * kPageSize, kPageSize);
      const uint32_t k_full = SharedAddress(&shared.k_full[cursor.stage]);
      const uint32_t v_full = SharedAddress(&shared.v_full[cursor.stage]);
      BarrierWait(SharedAddress(&shared.k_empty[cursor.stage]), cursor.parity ^ 1);
      if (lane == 0) {
        BarrierArriveExpect(k_full, Storage::kBlockBytes);
        BulkCopy(SharedAddress(shared.k[cursor.stage]),
                 args.cache.data + args.cache.k_block_offset(page, tile.kv_head),
                 Storage::kBlockBytes, k_full);
      }
      BarrierWait(SharedAddress(&shared.v_empty[cursor.stage]), cursor.parity ^ 1);
      const __nv_bfloat16* const v =
          args.cache.data + args.cache.v_block_offset(page, tile.kv_head);
      const uint32_t v_tile = SharedAddress(shared.v[cursor.stage]);
      if (first == 0 && last == kPageSize) {
        if (lane == 0) {
          BarrierArriveExpect(v_full, Storage::kBlockBytes);
          BulkCopy(v_tile, v, Storage::kBlockBytes, v_full);
        }
      } else {
        CopyVisibleRows<kHeadDim>(v_tile, v, first, last, v_full, lane);
      }
      cursor.Advance();
    }
  }
}

// A query loader warp.
template <int kHeadDim, bool kProbe>
__device__ void LoadQueries(const PrefillArgs& args, SharedStorage<kHeadDim>& shared, int consumer,
                            int lane) {
  TileReader<kHeadDim> tiles(shared);
  PrefillTile tile;
  uint32_t parity = 0;
  while (tiles.Next(tile, lane)) {
    BarrierWait(SharedAddress(&shared.q_empty[consumer]), parity ^ 1);
    const int packed_begin = consumer * kRowsPerGroup;
    LoadRows<kHeadDim, kRowsPerGroup>(args.q, args.q_stride, tile, args.group_size, packed_begin,
                                      SharedAddress(shared.q[consumer]), 0, lane);
    if (kProbe) {
      LoadRows<kHeadDim, kRowsPerGroup>(args.r, args.r_stride, tile, args.group_size, packed_begin,
                                        SharedAddress(shared.r[consumer]), 0, lane);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    FenceAsyncProxy();
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&shared.q_full[consumer]));
    parity ^= 1;
  }
}

// Issues s = a k' for a [64][D] tile a of queries and k of keys.
template <int kHeadDim>
__device__ __forceinline__ void IssueScores(uint64_t a, uint64_t k, float (&s)[32]) {
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    const int step = (d / 64 * kHalfBytes + d % 64 * 2) >> 4;
    WgmmaSharedA(s, a + step, k + step, d > 0);
  }
}

// Issues o += w v for weights w in registers.
template <int kHeadDim>
__device__ __forceinline__ void IssueOutputs(const uint32_t (&w)[4][4], uint64_t v,
                                             float (&o)[kHeadDim / 2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) WgmmaRegisterA(o, w[j], v + ((j * 16 * 128) >> 4));
}

// A consumer warpgroup's work on its tiles.
template <int kHeadDim, bool kProbe>
class Consumer {
 public:
  using Storage = SharedStorage<kHeadDim>;

  __device__ Consumer(const PrefillArgs& args, Storage& shared, int index)
      : args_(args),
        shared_(shared),
        index_(index),
        lane_(threadIdx.x % 32),
        row_(index * kRowsPerGroup + threadIdx.x / 32 % 4 * 16 + lane_ / 4),
        q_(TileDescriptor(SharedAddress(shared.q[index]), 0)),
        r_(TileDescriptor(SharedAddress(shared.r[index]), 0)) {}

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
    BarrierWait(SharedAddress(&shared_.q_full[index_]), q_parity_);
    q_parity_ ^= 1;
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
    AddWeights(s1_, state_);
    PackProbes(s1_, s2_, state_, ps);
    PinRegisters(o2_);
    WgmmaFence();
    IssueOutputs<kHeadDim>(ps, ValueDescriptor(), o2_);
    WgmmaCommit();
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
    AddWeights(s1_, state_);
    WaitValues();
    PinRegisters(o1_);
    WgmmaFence();
    IssueOutputs<kHeadDim>(p, ValueDescriptor(), o1_);
    WgmmaCommit();
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
    const int warp = threadIdx.x / 32 - 4;  // of the consumers'
    if (warp * 16 >= tile.num_rows * args_.group_size) return;
    if (tile.parts > 1 &&
        !MergeParts(*args_.workspace, tile.first_part * kConsumerWarps + warp, kConsumerWarps,
                    tile.part, tile.parts, lane_, state_, o1_, o2_)) {
      return;
    }
    if constexpr (kProbe) {
      FinishRows(state_, o1_, o2_);
    } else {
      FinishRows(state_, o1_);
    }
    StoreRows<kHeadDim>(args_, tile, row_, lane_, o1_);
  }

  __device__ __forceinline__ uint64_t KeyDescriptor() const {
    return TileDescriptor(SharedAddress(shared_.k[k_cursor_.stage]), 0);
  }
  __device__ __forceinline__ uint64_t ValueDescriptor() const {
    return TileDescriptor(SharedAddress(shared_.v[v_cursor_.stage]), kHalfBytes);
  }

  __device__ __forceinline__ void WaitKeys() {
    BarrierWait(SharedAddress(&shared_.k_full[k_cursor_.stage]), k_cursor_.parity);
  }
  __device__ __forceinline__ void WaitValues() {
    BarrierWait(SharedAddress(&shared_.v_full[v_cursor_.stage]), v_cursor_.parity);
  }
  __device__ __forceinline__ void ReleaseKeys() {
    if (lane_ == 0) BarrierArrive(SharedAddress(&shared_.k_empty[k_cursor_.stage]));
    k_cursor_.Advance();
  }
  __device__ __forceinline__ void ReleaseValues() {
    if (lane_ == 0) BarrierArrive(SharedAddress(&shared_.v_empty[v_cursor_.stage]));
    v_cursor_.Advance();
  }
  __device__ __forceinline__ void ReleaseQueries() {
    if (lane_ == 0) BarrierArrive(SharedAddress(&shared_.q_empty[index_]));
  }

  const PrefillArgs& args_;
  Storage& shared_;
  const int index_;  // of the consumer
  const int lane_;
  const int row_;  // the thread's first of the tile's packed rows
  const uint64_t q_;
  const uint64_t r_;
  RingCursor<Storage::kStages> k_cursor_;
  RingCursor<Storage::kStages> v_cursor_;
  uint32_t q_parity_ = 0;

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

  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers::kProducer));
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (warp == 0) {
      CopyKeysAndValues(args, shared, lane);
    } else if (warp == 1) {
      ScheduleTiles(args, shared, lane);
    } else {
      LoadQueries<kHeadDim, kProbe>(args, shared, warp - 2, lane);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers::kConsumer));
    Consumer<kHeadDim, kProbe> consumer(args, shared, warpgroup - 1);
    consumer.Run();
  }
}

template <int kHeadDim, bool kProbe>
void Launch(PrefillArgs args, int64_t tokens_bound, int num_sms, cudaStream_t stream) {
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
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(args);
  CheckLaunch("parallax_prefill");
}

template <int kHeadDim>
void LaunchOfDim(const PrefillArgs& args, int64_t tokens_bound, int num_sms, cudaStream_t stream) {
  if (args.r != nullptr) {
    Launch<kHeadDim, true>(args, tokens_bound, num_sms, stream);
  } else {
    Launch<kHeadDim, false>(args, tokens_bound, num_sms, stream);
  }
}

}  // namespace

void LaunchPrefillWgmma(const PrefillArgs& args, int64_t tokens_bound, int num_sms,
                        cudaStream_t stream) {
  if (args.cache.head_dim == 128) {
    LaunchOfDim<128>(args, tokens_bound, num_sms, stream);
  } else {
    LaunchOfDim<64>(args, tokens_bound, num_sms, stream);
  }
}

}  // namespace parallax::kernels::cuda
