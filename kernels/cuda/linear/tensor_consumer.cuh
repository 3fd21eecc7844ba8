// The multiplying warps of TensorLinear: two warpgroups, each 64 of a tile's 128 rows.
//
// Thread safety: device code, run by all threads of both warpgroups. Both take every stage: a ring
// whose consumers took stages in turn would let one of them mistake a phase for the next but one.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_CONSUMER_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tensor_epilogue.cuh"
#include "kernels/cuda/linear/tensor_ptx.cuh"
#include "kernels/cuda/linear/tensor_shared.cuh"
#include "kernels/cuda/linear/tensor_wgmma.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

template <int kTokens, LinearEpilogue kEpilogue, typename Y>
class TensorConsumer {
 public:
  using Shared = TensorShared<kTokens>;
  using Unit = TensorUnit<kEpilogue, Y>;

  __device__ TensorConsumer(const TensorArgs& args, const TensorPart& part, const Shared& shared)
      : args_(args), part_(part), shared_(shared), warp_(__shfl_sync(~0u, threadIdx.x / 32, 0)) {}

  __device__ void Run() {
    for (int i = 0; i < part_.num_tiles; ++i) {
      const int tile = part_.first_tile + i * part_.tile_step;
      float sums[kTokens / 2];
      Multiply(sums);
      if (args_.cluster_shift == 0) {
        StoreOwn(sums, tile);
      } else {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          const bool last = i == part_.num_tiles - 1 && round == kRounds - 1;
          Exchange(sums, tile, round, last);
        }
      }
    }
  }

 private:
  static constexpr int kGroups = kTokens / 8;
  // Many tokens are exchanged in two halves: their sums would take 64 KB.
  static constexpr int kRoundGroups = ExchangeTokens(kTokens) / 8;
  static constexpr int kRounds = kGroups / kRoundGroups;
  static constexpr int kUnitBytes = 32 * sizeof(float4);
  static constexpr int kRoundBytes = kRoundGroups * kUnitBytes;  // of one warp
  // The units that a warp adds up in a round, at most: in a cluster of 2, of 4 * kRoundGroups.
  static constexpr int kWarpUnits = (kRoundGroups + 1) / 2;

  static __device__ int lane() { return threadIdx.x % 32; }

  // sums = this CTA's part of the products of its next tile.
  __device__ void Multiply(float (&sums)[kTokens / 2]) {
    const uint32_t half = warp_ / 4 * (kTensorWeightBytes / 2);
    int previous = 0;
    for (int step = 0; step < part_.num_steps; ++step) {
      Wait(shared_.Full(stage_), parity_);
      const uint32_t weights = TileDescriptor(shared_.Weights(stage_) + half, 0);
      const uint32_t x = TileDescriptor(shared_.X(args_.keep_x ? step : stage_), 0);
      WgmmaFence();
#pragma unroll
      for (int k = 0; k < kTensorStepInputs / 16; ++k) {
        WgmmaShared(sums, weights + 2 * k, x + 2 * k, step > 0 || k > 0);  // 32 bytes on
      }
      WgmmaCommit();
      // The products of the stage before are done then, and those of this one go on.
      WgmmaWait<1>();
      if (step > 0) Release(previous);
      previous = stage_;
      if (++stage_ == args_.stages) {
        stage_ = 0;
        parity_ ^= 1;
      }
    }
    WgmmaWait<0>();
    PinRegisters(sums);
    Release(previous);
  }

  // Of every warp: that one's products are done says nothing of the others'.
  __device__ void Release(int stage) {
    if (lane() == 0) Arrive(shared_.Empty(stage));
  }

  static __device__ float4 SumsOf(const float (&sums)[kTokens / 2], int group) {
    return make_float4(sums[4 * group], sums[4 * group + 1], sums[4 * group + 2],
                       sums[4 * group + 3]);
  }

  // Without a cluster. Some units at a time, so that what they add to arrives together.
  __device__ void StoreOwn(const float (&sums)[kTokens / 2], int tile) {
    constexpr int kBatch = 4;
#pragma unroll
    for (int first = 0; first < kGroups; first += kBatch) {
      typename Unit::Old old[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i < kGroups) old[i] = Unit(args_, tile, warp_, first + i).Load();
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= kGroups) break;
        Unit(args_, tile, warp_, first + i).Store(args_, SumsOf(sums, first + i), old[i]);
      }
    }
  }

  // Every CTA of the cluster adds up all CTAs' sums of an equal share of the tile's rows, in the
  // order of their ranks, and stores it.
  //
  // Nothing is sent to a CTA that has ended, so no barrier is needed at the end: a CTA waits for
  // all sums that are sent to it, and for all of its peers to take what it sent, but for the last.
  __device__ void Exchange(const float (&sums)[kTokens / 2], int tile, int round, bool last) {
    if (exchanges_ == 0) {
      AwaitPeers();
    } else {
      WaitCluster(shared_.SumsTaken(), (exchanges_ - 1) % 2);
    }
    if (threadIdx.x == 0) ArriveExpect(shared_.SumsFull(), kTensorConsumerWarps * kRoundBytes);
    Send(sums, round);

    // This warp's units of the share: number warp_, warp_ + 8, ...
    const int blocks = kTensorConsumerWarps >> args_.cluster_shift;  // of 16 rows, of a CTA
    const int units = blocks * kRoundGroups;
    const auto place = [&](int i) {
      const int unit = warp_ + i * kTensorConsumerWarps;
      return Unit(args_, tile, part_.rank * blocks + unit / kRoundGroups,
                  round * kRoundGroups + unit % kRoundGroups);
    };
    typename Unit::Old old[kWarpUnits];
#pragma unroll
    for (int i = 0; i < kWarpUnits; ++i) {
      if (warp_ + i * kTensorConsumerWarps < units) old[i] = place(i).Load();
    }
    WaitCluster(shared_.SumsFull(), exchanges_ % 2);
#pragma unroll
    for (int i = 0; i < kWarpUnits; ++i) {
      const int unit = warp_ + i * kTensorConsumerWarps;
      if (unit < units) place(i).Store(args_, AddUp(unit, units), old[i]);
    }
    if (!last) {
      __syncwarp();  // all lanes have taken their sums
      const int ranks = 1 << args_.cluster_shift;
      if (ActsForWarp(ranks)) ArriveAtRanks(shared_.SumsTaken(), 0, ranks);
    }
    ++exchanges_;
  }

  // A warp's 16 rows all go to one CTA. There: [sender][block of the share][group][lane].
  __device__ void Send(const float (&sums)[kTokens / 2], int round) {
    const int shift = kTensorConsumerWarpsLog2 - args_.cluster_shift;
    const int receiver = warp_ >> shift;
    const int block = warp_ & ((1 << shift) - 1);
    const uint32_t place =
        shared_.Sums() + ((part_.rank << shift) + block) * kRoundBytes + lane() * sizeof(float4);
    const uint32_t to = RemoteAddress(place, receiver);
    const uint32_t barrier = RemoteAddress(shared_.SumsFull(), receiver);
#pragma unroll
    for (int group = 0; group < kRoundGroups; ++group) {
      StoreRemote(to + group * kUnitBytes, SumsOf(sums, round * kRoundGroups + group), barrier);
    }
  }

  // The lane's part of a unit of the share: all CTAs', asked for some at a time, added in order.
  __device__ float4 AddUp(int unit, int units) const {
    constexpr int kBatch = 4;
    const uint32_t place = shared_.Sums() + unit * kUnitBytes + lane() * sizeof(float4);
    const int senders = 1 << args_.cluster_shift;
    float4 z = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int first = 0; first < senders; first += kBatch) {
      float4 parts[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i < senders) parts[i] = LoadShared(place + (first + i) * units * kUnitBytes);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= senders) break;
        z.x += parts[i].x;
        z.y += parts[i].y;
        z.z += parts[i].z;
        z.w += parts[i].w;
      }
    }
    return z;
  }

  const TensorArgs& args_;
  const TensorPart& part_;
  const Shared& shared_;
  const int warp_;  // by a shuffle, so that the compiler knows it for the same in all lanes
  int stage_ = 0;
  uint32_t parity_ = 0;
  int exchanges_ = 0;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_CONSUMER_CUH_
