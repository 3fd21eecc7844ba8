// The multiplying warps of TileLinear: warpgroups of 64 rows each.
//
// Thread safety: device code, run by all threads of all warpgroups, which take every stage.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_CONSUMER_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tensor_ptx.cuh"
#include "kernels/cuda/linear/tile_epilogue.cuh"
#include "kernels/cuda/linear/tile_shared.cuh"
#include "kernels/cuda/linear/tile_wgmma.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

template <int kWarpgroups, int kTokens, TileOutput kOutput>
class TileConsumer {
 public:
  using Shared = TileShared<kWarpgroups, kTokens>;
  using Epilogue = TileEpilogue<kWarpgroups, kTokens, kOutput>;

  __device__ TileConsumer(const TileArgs& args, const TilePart& part, const Shared& shared)
      : args_(args),
        part_(part),
        shared_(shared),
        warp_(__shfl_sync(~0u, threadIdx.x / 32, 0)),
        items_(part.items()) {}

  // REQUIRES: in a cluster, its barriers are set up.
  __device__ void Run() {
    for (int i = 0; i < part_.num_tiles; ++i) {
      float sums[kTokens / 2];
      Multiply(sums);
      SumRange range{0, args_.tile_tokens / 8};
      // What only this warpgroup read of the tile's last stage, which it still holds.
      uint32_t staging = shared_.Weights(held_) + warp_ / 4 * Shared::kWarpgroupWeightBytes;
      if (args_.input_parts > 1) {
        range = SumsOf(part_.part);
        MeetSums(sums, range);
        staging = WarpgroupSums(warp_ / 4);
      }
      const Epilogue epilogue(args_, part_.Place(args_, i), warp_);
      if constexpr (Epilogue::kStages) {
        epilogue.Store(sums, range, staging);
        FenceCopyEngine();
        __syncwarp();
        Release();
      } else {
        Release();
        epilogue.Store(sums, range, staging);
      }
    }
    if (args_.input_parts > 1) WaitUntilSent();
  }

 private:
  static constexpr int kGroups = kTokens / 8;
  static constexpr int kUnitBytes = 32 * sizeof(float4);  // a warp's sums of 8 tokens

  static __device__ int lane() { return threadIdx.x % 32; }

  // Of 16 inputs.
  static __device__ void MultiplyAdd(float (&sums)[kTokens / 2], uint32_t weights, uint32_t x,
                                     int accumulate) {
    if constexpr (!TakesTwoInstructions(kWarpgroups, kTokens)) {
      WgmmaShared(sums, weights, x, accumulate);
    } else {
      using Half = float[kTokens / 4];
      constexpr uint32_t kHalf = kTokens / 2 * kTensorStepBytes / 16;
      WgmmaShared(reinterpret_cast<Half&>(sums[0]), weights, x, accumulate);
      WgmmaShared(reinterpret_cast<Half&>(sums[kTokens / 4]), weights, x + kHalf, accumulate);
    }
  }

  // sums = this CTA's part of the products of its next tile, whose last stage is held.
  __device__ void Multiply(float (&sums)[kTokens / 2]) {
    const uint32_t rows = warp_ / 4 * Shared::kWarpgroupWeightBytes;
    for (int step = 0; step < part_.num_steps; ++step) {
      Wait(shared_.Full(stage_), parity_);
      const uint32_t weights = TileDescriptor(shared_.Weights(stage_) + rows, 0);
      const uint32_t x = TileDescriptor(shared_.X(stage_), 0);
      WgmmaFence();
#pragma unroll
      for (int k = 0; k < kTensorStepInputs / 16; ++k) {
        MultiplyAdd(sums, weights + 2 * k, x + 2 * k, step > 0 || k > 0);  // 32 bytes on
      }
      WgmmaCommit();
      // The products of the stage before are done then, and those of this one go on.
      WgmmaWait<1>();
      if (step > 0) Release();
      held_ = stage_;
      if (++stage_ == args_.stages) {
        stage_ = 0;
        parity_ ^= 1;
      }
    }
    WgmmaWait<0>();
    PinRegisters(sums);
  }

  // Frees the stage that is held, of every warp: that one's products are done says nothing of the
  // others'. Where nothing will be copied to it, nobody is told: a sharer may have ended by then.
  __device__ void Release() {
    if (released_++ + args_.stages >= items_ || !ActsForWarp(part_.sharers)) return;
    const uint32_t barrier = shared_.Empty(held_);
    if (part_.sharers == 1) {
      Arrive(barrier);
    } else {
      ArriveAtRanks(barrier, part_.part * part_.sharers, part_.sharers);
    }
  }

  // The place for sums of a warpgroup is [its warp][part they are of][group][lane] of those that it
  // adds up, and behind [its warp][other part they are for][group][lane] of those that it sends.
  __device__ uint32_t WarpgroupSums(int warpgroup) const {
    return shared_.Sums() + warpgroup * TileWarpgroupSumBytes(args_.input_parts, args_.most_sums);
  }
  __device__ uint32_t AddedSums(int part) const {
    const int slot = warp_ % 4 * args_.input_parts + part;
    return WarpgroupSums(warp_ / 4) + slot * SlotBytes();
  }
  __device__ uint32_t SentSums(int part) const {
    const int slot = warp_ % 4 * (args_.input_parts - 1) + (part < part_.part ? part : part - 1);
    return WarpgroupSums(warp_ / 4) + TileAddedSumBytes(args_.input_parts, args_.most_sums) +
           slot * SlotBytes();
  }
  __device__ int SlotBytes() const { return args_.most_sums * kUnitBytes; }

  __device__ SumRange SumsOf(int part) const {
    return {args_.first_sums[part], args_.first_sums[part + 1]};
  }

  // sums of the groups of `own` = those of all parts of the inputs, in the parts' order.
  //
  // They are sent to rings whose CTAs are done with them, by the copy engine: stores to another CTA
  // took 0.4 ns a sum. Loops over the parts are not unrolled: this runs once, and instructions have
  // to be fetched too.
  __device__ void MeetSums(float (&sums)[kTokens / 2], const SumRange& own) {
    ArriveAtAll(shared_.RingsDone());
    WaitCluster(shared_.RingsDone(), 0);
#pragma unroll 1
    for (int part = 0; part < args_.input_parts; ++part) {
      Keep(sums, SumsOf(part), part == part_.part ? AddedSums(part) : SentSums(part));
    }
    FenceCopyEngine();
    __syncwarp();
    if (lane() < args_.input_parts && lane() != part_.part) SendTo(lane());
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    WaitCluster(shared_.SumsFull(), 0);
    ArriveAtAll(shared_.RingsDone());
#pragma unroll 1
    for (int part = 0; part < args_.input_parts; ++part) AddOf(part, own, sums);
  }

  // Before a CTA ends, whose shared memory its sums are sent from: waits until they are there. So
  // nothing is sent to a CTA that has ended, either.
  __device__ void WaitUntilSent() const { WaitCluster(shared_.RingsDone(), 1); }

  // At the barriers of all CTAs that share the tile.
  __device__ void ArriveAtAll(uint32_t barrier) const {
    if (lane() < args_.input_parts) ArriveRemote(RemoteAddress(barrier, part_.RankOf(lane())));
  }

  __device__ void Keep(const float (&sums)[kTokens / 2], const SumRange& range,
                       uint32_t slot) const {
    const uint32_t place = slot + lane() * sizeof(float4) - range.first * kUnitBytes;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (group < range.first || group >= range.last) continue;
      StoreShared(place + group * kUnitBytes,
                  make_float4(sums[4 * group], sums[4 * group + 1], sums[4 * group + 2],
                              sums[4 * group + 3]));
    }
  }

  // By one lane. REQUIRES: its warp's sums for the part are kept, and fenced.
  __device__ void SendTo(int part) const {
    const SumRange range = SumsOf(part);
    const uint32_t rank = part_.RankOf(part);
    SendShared(RemoteAddress(AddedSums(part_.part), rank), SentSums(part),
               (range.last - range.first) * kUnitBytes, RemoteAddress(shared_.SumsFull(), rank));
  }

  __device__ void AddOf(int part, const SumRange& own, float (&sums)[kTokens / 2]) const {
    const uint32_t place = AddedSums(part) + lane() * sizeof(float4) - own.first * kUnitBytes;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (group < own.first || group >= own.last) continue;
      const float4 sent = LoadShared(place + group * kUnitBytes);
      sums[4 * group] += sent.x;
      sums[4 * group + 1] += sent.y;
      sums[4 * group + 2] += sent.z;
      sums[4 * group + 3] += sent.w;
    }
  }

  const TileArgs& args_;
  const TilePart& part_;
  const Shared& shared_;
  const int warp_;  // by a shuffle, so that the compiler knows it for the same in all lanes
  const int items_;
  int stage_ = 0;
  int held_ = 0;
  int released_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_CONSUMER_CUH_
