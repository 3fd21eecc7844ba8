// The warps of Hopper's prefill that only move data, and the shared memory they move it to.
//
// One warp copies K and V blocks into a ring (a page's block of one head is one bulk copy and lands
// as the tile that wgmma reads), two load the query rows of the next tile while the consumers work
// on this one, one finds the tile after that.
//
// Thread safety: device code; each function is one warp's.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_PRODUCERS_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_PRODUCERS_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_rows.cuh"
#include "kernels/cuda/parallax_attention/prefill_schedule.cuh"
#include "kernels/cuda/parallax_attention/ring_cursor.cuh"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

constexpr int kRowsPerGroup = 64;  // packed query rows a consumer warpgroup owns
constexpr int kConsumers = 2;      // consumer warpgroups
constexpr int kTileRows = kRowsPerGroup * kConsumers;
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kConsumerWarps = 4 * kConsumers;
constexpr int kTileSlots = 2;  // tiles known ahead

template <int kHeadDim>
struct alignas(1024) SharedStorage {
  static constexpr int kBlockBytes = 64 * kHeadDim * 2;  // one K, V, Q or R tile
  static constexpr int kStages = kHeadDim == 128 ? 3 : 8;
  static constexpr int kQueryStages = 2;

  uint8_t q[kQueryStages][kConsumers][kBlockBytes];
  uint8_t r[kQueryStages][kConsumers][kBlockBytes];
  uint8_t k[kStages][kBlockBytes];
  uint8_t v[kStages][kBlockBytes];

  uint64_t k_full[kStages], k_empty[kStages];
  uint64_t v_full[kStages], v_empty[kStages];
  uint64_t q_full[kQueryStages][kConsumers], q_empty[kQueryStages][kConsumers];
  uint64_t tile_full[kTileSlots], tile_empty[kTileSlots];
  PrefillTile tiles[kTileSlots];
};

template <int kHeadDim>
__device__ void InitBarriers(SharedStorage<kHeadDim>& shared) {
  using Storage = SharedStorage<kHeadDim>;
  for (int i = 0; i < Storage::kStages; ++i) {
    InitBarrier(SharedAddress(&shared.k_full[i]), 1);
    InitBarrier(SharedAddress(&shared.v_full[i]), 1);
    InitBarrier(SharedAddress(&shared.k_empty[i]), kConsumerWarps);
    InitBarrier(SharedAddress(&shared.v_empty[i]), kConsumerWarps);
  }
  for (int i = 0; i < Storage::kQueryStages; ++i) {
    for (int j = 0; j < kConsumers; ++j) {
      InitBarrier(SharedAddress(&shared.q_full[i][j]), 1);
      InitBarrier(SharedAddress(&shared.q_empty[i][j]), 4);
    }
  }
  for (int i = 0; i < kTileSlots; ++i) {
    InitBarrier(SharedAddress(&shared.tile_full[i]), 1);
    // The copying warp, a query loader for each consumer, the consumers' warps.
    InitBarrier(SharedAddress(&shared.tile_empty[i]), 1 + kConsumers + kConsumerWarps);
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
    Wait(SharedAddress(&shared_.tile_full[cursor_.stage]), cursor_.parity);
    tile = shared_.tiles[cursor_.stage];
    __syncwarp();
    if (lane == 0) Arrive(SharedAddress(&shared_.tile_empty[cursor_.stage]));
    cursor_.Advance();
    return tile.sequence >= 0;
  }

 private:
  SharedStorage<kHeadDim>& shared_;
  RingCursor<kTileSlots> cursor_;
};

// The scheduler warp. The first tile is found while the kernel before this one may still run: it
// depends on lengths alone. The counters are another launch's until then. The next kernel starts no
// sooner than what this one waited for is complete, so that it may run beside this one
// (ParallaxDecodeParams::beside_preceding).
template <int kHeadDim>
__device__ void ScheduleTiles(const PrefillArgs& args, SharedStorage<kHeadDim>& shared, int lane) {
  RingCursor<kTileSlots> cursor;
  uint32_t rank = blockIdx.x;
  while (true) {
    const PrefillTile tile = FindTile<kTileRows>(args, rank, lane);
    Wait(SharedAddress(&shared.tile_empty[cursor.stage]), cursor.parity ^ 1);
    if (lane == 0) {
      shared.tiles[cursor.stage] = tile;
      Arrive(SharedAddress(&shared.tile_full[cursor.stage]));
    }
    cursor.Advance();
    WaitForPrecedingKernel();
    LetNextKernelStart();
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
  FenceCopyEngine();
  __syncwarp();
  if (lane == 0) {
    const uint32_t bytes = (last - first) * 128;
    ArriveExpect(barrier, bytes * (kHeadDim / 64));
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
  WaitForPrecedingKernel();
  while (tiles.Next(tile, lane)) {
    const int32_t* const pages = args.block_tables + tile.sequence * args.max_blocks;
    const int last_block = (tile.key_end - 1) / kPageSize;
    for (int block = tile.key_begin / kPageSize; block <= last_block; ++block) {
      const int64_t page = pages[block];
      const int first = max(tile.key_begin - block * kPageSize, 0);
      const int last = min(tile.key_end - block * kPageSize, kPageSize);
      const uint32_t k_full = SharedAddress(&shared.k_full[cursor.stage]);
      const uint32_t v_full = SharedAddress(&shared.v_full[cursor.stage]);
      Wait(SharedAddress(&shared.k_empty[cursor.stage]), cursor.parity ^ 1);
      if (lane == 0) {
        ArriveExpect(k_full, Storage::kBlockBytes);
        BulkCopy(SharedAddress(shared.k[cursor.stage]),
                 args.cache.data + args.cache.k_block_offset(page, tile.kv_head),
                 Storage::kBlockBytes, k_full);
      }
      Wait(SharedAddress(&shared.v_empty[cursor.stage]), cursor.parity ^ 1);
      const __nv_bfloat16* const v =
          args.cache.data + args.cache.v_block_offset(page, tile.kv_head);
      const uint32_t v_tile = SharedAddress(shared.v[cursor.stage]);
      if (first == 0 && last == kPageSize) {
        if (lane == 0) {
          ArriveExpect(v_full, Storage::kBlockBytes);
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
  RingCursor<SharedStorage<kHeadDim>::kQueryStages> cursor;
  WaitForPrecedingKernel();
  while (tiles.Next(tile, lane)) {
    const int stage = cursor.stage;
    Wait(SharedAddress(&shared.q_empty[stage][consumer]), cursor.parity ^ 1);
    const int packed_begin = consumer * kRowsPerGroup;
    LoadRows<kHeadDim, kRowsPerGroup>(args.q, args.q_stride, tile, args.group_size, packed_begin,
                                      SharedAddress(shared.q[stage][consumer]), 0, lane);
    if (kProbe) {
      LoadRows<kHeadDim, kRowsPerGroup>(args.r, args.r_stride, tile, args.group_size, packed_begin,
                                        SharedAddress(shared.r[stage][consumer]), 0, lane);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    FenceCopyEngine();
    __syncwarp();
    if (lane == 0) Arrive(SharedAddress(&shared.q_full[stage][consumer]));
    cursor.Advance();
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_PRODUCERS_CUH_
