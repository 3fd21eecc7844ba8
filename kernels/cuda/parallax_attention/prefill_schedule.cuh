// Which rows and keys a block works on, found on the device from lengths alone.
//
// The query rows of one sequence and the heads of one KV head's group are packed into one row
// index, row * group_size + head, and cut into tiles of whole rows that fit kTileRows: a tile's
// rows share every K and V block they read. Tiles are ranked by the position of their last row,
// highest first, whatever sequence they belong to: the longest work starts first and the shortest
// fills the end.
//
// A few rows behind a long prefix make few tiles. Where part_slots has room for twice their
// number or more, the keys of each are cut into parts, and every part is given to a block.
//
// Thread safety: device code; FindTile is called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_SCHEDULE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_SCHEDULE_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/kv_cache_view.h"

namespace parallax::kernels::cuda {

struct PrefillTile {
  int sequence;  // -1: no tile of this rank
  int kv_head;
  int first_token;     // row of q of the sequence's first row
  int first_position;  // of the sequence's first row
  int first_row;       // the tile's first, counted from the sequence's first
  int num_rows;        // in the tile
  int key_begin;       // first key any of its rows sees, in this part
  int key_end;         // one past the last key
  int part;            // of the tile's keys
  int parts;
  int first_part;  // rank of the tile's first part
};

constexpr int kLeastPartBlocks = 16;  // key blocks that make a part worth its merge

// One sequence's share of the ranking.
struct PrefillSequence {
  int rows;
  int context;

  __device__ static PrefillSequence Load(const PrefillArgs& args, int sequence) {
    if (args.query_start == nullptr) return {1, args.context_len[sequence]};
    return {args.query_start[sequence + 1] - args.query_start[sequence],
            args.context_len[sequence]};
  }

  // Tiles whose last row sees at least `keys` keys.
  __device__ int TilesSeeing(int keys, int rows_per_tile) const {
    if (rows <= 0 || keys > context) return 0;
    const int tiles = (rows + rows_per_tile - 1) / rows_per_tile;
    const int row = keys - 1 - (context - rows);  // the first that sees so many
    return row <= 0 ? tiles : tiles - row / rows_per_tile;
  }
};

__device__ inline int TilesSeeing(const PrefillArgs& args, int keys, int rows_per_tile, int lane) {
  int tiles = 0;
  for (int s = lane; s < args.batch; s += 32) {
    tiles += PrefillSequence::Load(args, s).TilesSeeing(keys, rows_per_tile);
  }
  return __reduce_add_sync(0xFFFFFFFF, tiles);
}

// The sequence that holds the index-th tile whose last row sees exactly `keys` keys.
__device__ inline int SequenceOfTile(const PrefillArgs& args, int keys, int index,
                                     int rows_per_tile, int lane) {
  for (int base = 0; base < args.batch; base += 32) {
    bool holds = false;
    if (base + lane < args.batch) {
      const PrefillSequence sequence = PrefillSequence::Load(args, base + lane);
      holds =
          sequence.TilesSeeing(keys, rows_per_tile) > sequence.TilesSeeing(keys + 1, rows_per_tile);
    }
    const uint32_t holders = __ballot_sync(0xFFFFFFFF, holds);
    const int count = __popc(holders);
    if (index < count) return base + __fns(holders, 0, index + 1);
    index -= count;
  }
  return -1;
}

// The sequence of a tile, and the keys that its last row sees.
struct RankedTile {
  int sequence;
  int keys;
};

// REQUIRES: row_rank < row_tiles.
__device__ inline RankedTile TileOfRank(const PrefillArgs& args, int row_rank, int row_tiles,
                                        int rows_per_tile, int lane) {
  if (args.batch == 1) {  // one prompt's tiles from the last to the first: nothing to search for
    const PrefillSequence only = PrefillSequence::Load(args, 0);
    const int rows = min(only.rows, (row_tiles - row_rank) * rows_per_tile);
    return {0, only.context - only.rows + rows};
  }
  // The most keys that more than row_rank tiles see.
  int keys = 1;
  int beyond = static_cast<int>(args.max_blocks) * kPageSize + 1;
  int tiles_beyond = 0;
  while (beyond - keys > 1) {
    const int middle = keys + (beyond - keys) / 2;
    const int tiles = TilesSeeing(args, middle, rows_per_tile, lane);
    if (tiles > row_rank) {
      keys = middle;
    } else {
      beyond = middle;
      tiles_beyond = tiles;
    }
  }
  return {SequenceOfTile(args, keys, row_rank - tiles_beyond, rows_per_tile, lane), keys};
}

// Leaves a tile the keys of one of at most `most_parts` parts; parts that are not needed become
// no tile.
__device__ inline void CutKeys(PrefillTile& tile, int part, int most_parts) {
  const int first_block = tile.key_begin / kPageSize;
  const int blocks = (tile.key_end + kPageSize - 1) / kPageSize - first_block;
  tile.part = part;
  tile.parts = max(min(blocks / kLeastPartBlocks, most_parts), 1);
  if (part >= tile.parts) tile.sequence = -1;
  if (tile.parts == 1) return;
  const int begin = blocks * part / tile.parts;
  const int end = blocks * (part + 1) / tile.parts;
  tile.key_begin = max(tile.key_begin, (first_block + begin) * kPageSize);
  tile.key_end = min(tile.key_end, (first_block + end) * kPageSize);
}

// What the block of this rank works on, if blocks hold kTileRows packed rows.
template <int kTileRows>
__device__ PrefillTile FindTile(const PrefillArgs& args, uint32_t rank, int lane) {
  PrefillTile tile = {};
  tile.sequence = -1;
  const int rows_per_tile = kTileRows / args.group_size;
  const int row_tiles = TilesSeeing(args, 1, rows_per_tile, lane);
  const int heads = args.cache.num_kv_heads;
  const int parts = max(min(args.part_slots / max(row_tiles * heads, 1), kMostParts), 1);
  const int tile_rank = static_cast<int>(rank / parts);
  tile.kv_head = tile_rank % heads;
  const int row_rank = tile_rank / heads;
  if (row_tiles <= row_rank) return tile;

  const RankedTile ranked = TileOfRank(args, row_rank, row_tiles, rows_per_tile, lane);
  tile.sequence = ranked.sequence;
  const PrefillSequence sequence = PrefillSequence::Load(args, tile.sequence);
  tile.first_token = args.query_start == nullptr ? tile.sequence : args.query_start[tile.sequence];
  tile.first_position = sequence.context - sequence.rows;
  const int last_row = ranked.keys - 1 - tile.first_position;
  tile.first_row = last_row / rows_per_tile * rows_per_tile;
  tile.num_rows = last_row + 1 - tile.first_row;
  tile.key_begin = max(0, tile.first_position + tile.first_row - args.window + 1);
  tile.key_end = ranked.keys;
  tile.first_part = tile_rank * parts;
  CutKeys(tile, static_cast<int>(rank % parts), parts);
  return tile;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_SCHEDULE_CUH_
