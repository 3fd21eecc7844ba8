// The copying warp of TileLinear.
//
// Thread safety: device code, run by one thread.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_PRODUCER_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_PRODUCER_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tensor_ptx.cuh"
#include "kernels/cuda/linear/tile_shared.cuh"
#include "kernels/cuda/programmatic_launch.cuh"

namespace parallax::kernels::cuda {

template <int kWarpgroups, int kTokens, bool kGated>
class TileProducer {
 public:
  using Shared = TileShared<kWarpgroups, kTokens>;

  __device__ TileProducer(const TileArgs& args, const TilePart& part, const Shared& shared)
      : args_(args),
        part_(part),
        shared_(shared),
        // The CTAs that take the same part of the inputs have neighbouring ranks.
        sharers_mask_(((1u << part.sharers) - 1) << (part.part * part.sharers)) {}

  // Fills the ring with weights, and with x once the kernel before this one has written it; then
  // follows the consumers. Loops are not unrolled: what runs first has to be fetched. REQUIRES:
  // where weights are shared, the sharers' barriers are set up.
  __device__ void Run() {
    const int items = part_.items();
    const int ahead = min(items, args_.stages);
    Item item{0, 0, part_.Place(args_, 0)};
    Item behind = item;
#pragma unroll 1
    for (int i = 0; i < ahead; ++i, Advance(item)) CopyWeights(item, i);
    WaitForPrecedingKernel();
#pragma unroll 1
    for (int i = 0; i < ahead; ++i, Advance(behind)) CopyX(behind, i);
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int i = ahead; i < items; ++i, Advance(item)) {
      Wait(shared_.Empty(stage), parity);
      CopyWeights(item, stage);
      CopyX(item, stage);
      if (++stage == args_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

 private:
  // What one stage holds: a step of a tile, both counted among the CTA's own.
  struct Item {
    int tile;
    int step;
    TilePlace place;  // of the tile
  };

  __device__ void Advance(Item& item) const {
    if (++item.step < part_.num_steps) return;
    item.step = 0;
    item.place = part_.Place(args_, ++item.tile);
  }

  __device__ int InputOf(const Item& item) const {
    return (part_.first_step + item.step) * kTensorStepInputs;
  }

  // Also announces what the stage waits for: x too, and what the sharers send of the weights.
  __device__ void CopyWeights(const Item& item, int stage) const {
    ArriveExpect(shared_.Full(stage), Shared::kWeightBytes + args_.tile_tokens * kTensorStepBytes);
    const int piece_rows = Shared::kRows >> args_.sharers_shift;
    const uint32_t to = shared_.Weights(stage) + part_.member * piece_rows * kTensorStepBytes;
    const int row = item.place.row_tile * Shared::kRows + part_.member * piece_rows;
    if constexpr (kGated) {
      CopyGates(to, InputOf(item), row / 16, shared_.Full(stage));
    } else {
      CopyRows(to, InputOf(item), row, shared_.Full(stage));
    }
  }

  __device__ void CopyRows(uint32_t to, int input, int row, uint32_t barrier) const {
    if (part_.sharers == 1) {
      CopyBox(to, args_.weight, input, row, barrier);
    } else {
      CopyBoxToMany(to, args_.weight, input, row, barrier, sharers_mask_);
    }
  }

  // Groups of 8 gates, each followed by its ups.
  __device__ void CopyGates(uint32_t to, int input, int group, uint32_t barrier) const {
    if (part_.sharers == 1) {
      CopyGroupBox(to, args_.weight, input, group, barrier);
    } else {
      CopyGroupBoxToMany(to, args_.weight, input, group, barrier, sharers_mask_);
    }
  }

  __device__ void CopyX(const Item& item, int stage) const {
    CopyBox(shared_.X(stage), args_.x, InputOf(item), item.place.first_token, shared_.Full(stage));
  }

  const TileArgs& args_;
  const TilePart& part_;
  const Shared& shared_;
  const uint16_t sharers_mask_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_PRODUCER_CUH_
