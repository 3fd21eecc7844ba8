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
      TileSums range{0, args_.tile_tokens / 8};
      // What only this warpgroup read of the tile's last stage, which it still holds.
      uint32_t staging = shared_.Weights(held_) + warp_ / 4 * Shared::kWarpgroupWeightBytes;
      if (args_.input_parts > 1) {
        range = {FirstSumGroup(args_, part_.part), FirstSumGroup(args_, part_.part + 1)};
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
  }

 private:
  static constexpr int kGroups = kTokens / 8;
  static constexpr int kWarps = TileConsumerWarps(kWarpgroups);
  static constexpr int kMaxAtOnce = 192;
  static constexpr int kUnitBytes = 32 * sizeof(float4);  // a warp's sums of 8 tokens

  static __device__ int lane() { return threadIdx.x % 32; }

  // Of 16 inputs. An instruction for more than kMaxAtOnce tokens, with as many registers of sums as
  // half of its tokens, is refused where three warpgroups of a kernel start with 128 each.
  static __device__ void MultiplyAdd(float (&sums)[kTokens / 2], uint32_t weights, uint32_t x,
                                     int accumulate) {
    if constexpr (kWarpgroups < kTileMaxWarpgroups || kTokens <= kMaxAtOnce) {
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
    if (released_++ + args_.stages >= items_ || lane() >= args_.sharers) return;
    const uint32_t barrier = shared_.Empty(held_);
    if (args_.sharers == 1) {
      Arrive(barrier);
    } else {
      ArriveRemote(RemoteAddress(barrier, part_.part * args_.sharers + lane()));
    }
  }

  __device__ uint32_t RankOf(int part) const { return part * args_.sharers + part_.member; }

  // The place for sums of a warpgroup is [its warp][sender][group][lane].
  __device__ uint32_t WarpgroupSums(int warpgroup) const {
    return shared_.Sums() + warpgroup * TileWarpgroupSumBytes(args_.input_parts, args_.sum_groups);
  }
  __device__ uint32_t WarpSums(int slot) const {
    const int bytes = args_.sum_groups * kUnitBytes;  // of a sender
    return WarpgroupSums(warp_ / 4) + (warp_ % 4 * (args_.input_parts - 1) + slot) * bytes +
           lane() * sizeof(float4);
  }

  static __device__ float4 SumsOf(const float (&sums)[kTokens / 2], int group) {
    return make_float4(sums[4 * group], sums[4 * group + 1], sums[4 * group + 2],
                       sums[4 * group + 3]);
  }

  // sums of the groups of `own` = those of all parts of the inputs, in the parts' order.
  //
  // They are sent to rings whose CTAs are done with them. Nothing is sent to a CTA that has ended:
  // it waits for all that its peers send it.
  __device__ void MeetSums(float (&sums)[kTokens / 2], const TileSums& own) {
    if (lane() < args_.input_parts && lane() != part_.part) {
      ArriveRemote(RemoteAddress(shared_.RingsDone(), RankOf(lane())));
    }
    WaitCluster(shared_.RingsDone(), 0);
    Send(sums);
    WaitCluster(shared_.SumsFull(), 0);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (group < own.first || group >= own.last) continue;
      const float4 z = AddUp(SumsOf(sums, group), group - own.first);
      sums[4 * group] = z.x;
      sums[4 * group + 1] = z.y;
      sums[4 * group + 2] = z.z;
      sums[4 * group + 3] = z.w;
    }
  }

  __device__ void Send(const float (&sums)[kTokens / 2]) {
    int receiver = 0;
    int first = 0;
    int next = FirstSumGroup(args_, 1);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (group == next) {
        first = next;
        next = FirstSumGroup(args_, ++receiver + 1);
      }
      if (receiver < args_.input_parts && receiver != part_.part) {
        const int slot = part_.part - (part_.part > receiver ? 1 : 0);
        const uint32_t place = WarpSums(slot) + (group - first) * kUnitBytes;
        const uint32_t rank = RankOf(receiver);
        StoreRemote(RemoteAddress(place, rank), SumsOf(sums, group),
                    RemoteAddress(shared_.SumsFull(), rank));
      }
    }
  }

  // `own`, of this CTA, and what the others sent of the same group.
  __device__ float4 AddUp(const float4& own, int group) const {
    float4 z = own;
#pragma unroll
    for (int part = 0; part < kTileMaxInputParts; ++part) {
      if (part >= args_.input_parts) break;
      const int slot = part - (part > part_.part ? 1 : 0);
      const float4 sent =
          part == part_.part ? own : LoadShared(WarpSums(slot) + group * kUnitBytes);
      z = part == 0 ? sent : make_float4(z.x + sent.x, z.y + sent.y, z.z + sent.z, z.w + sent.w);
    }
    return z;
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
