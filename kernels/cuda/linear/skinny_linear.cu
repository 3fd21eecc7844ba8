// The few-token linear layer for Hopper. See kernels/cuda/linear.h.
//
// One CTA an SM owns a contiguous run of tiles (16 rows of W, or 8). A producer warp streams
// them, in chunks of kChunkInputs inputs, through a ring of shared-memory stages; each of the
// 8 consumer warps multiplies its own eighth of the chunk's inputs for every row, so that x is
// read once, straight into registers. The warps' partial sums meet in shared memory.
//
// Fragments: m16n8k16 with W as A and x as B. The 16 inputs an instruction sums over may be any
// 16, as long as A and B agree: lane (g, t) takes inputs 8t..8t+7 of every 32 with one 16-byte
// load from its W rows g and g + 8 and one from token g, which feed two instructions.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/linear_params.h"
#include "kernels/cuda/linear/skinny_epilogue.cuh"
#include "kernels/cuda/linear/tensor_launch.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "SkinnyLinear";

constexpr int kWarps = 8;
constexpr int kThreads = 32 * (kWarps + 1);  // the last warp is the producer
constexpr int kChunkInputs = 1024;
constexpr int kWarpInputs = kChunkInputs / kWarps;
constexpr int kSteps = kWarpInputs / 32;
constexpr int kMaxStages = 16;
// All an SM has. 72 KB, room for two more kernels' stages, measured slower for chained layers;
// 110 KB within 2 % for the 0.6B model's, 3 to 10 % slower for the 1.7B model's.
constexpr int kSharedBudget = 226 * 1024;
// Before the stages: two barriers a stage, then a norm factor a token.
constexpr int kBarrierBytes = 2 * kMaxStages * sizeof(uint64_t);
constexpr int kHeadBytes = kBarrierBytes + kMaxSkinnyTokens * sizeof(float);

// The producer writes the norm factors and arrives; the consumers wait for it and each other.
__device__ void FactorsArrive() { asm volatile("bar.arrive 2, %0;" ::"n"(kThreads) : "memory"); }
__device__ void FactorsSync() { asm volatile("bar.sync 2, %0;" ::"n"(kThreads) : "memory"); }

__device__ void ConsumersSync() { asm volatile("bar.sync 1, %0;" ::"n"(32 * kWarps) : "memory"); }

__device__ void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Where in the ring a producer or a consumer is.
struct RingPosition {
  int stage;
  int parity;

  __device__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Streams one group of tiles, [first_tile, end_tile), chunk by chunk.
template <int kTileRows, LinearEpilogue kEpilogue>
__device__ void ProduceGroup(const SkinnyArgs& args, char* stages, uint64_t* full, uint64_t* empty,
                             int first_tile, int end_tile, int lane, RingPosition& at) {
  const uint64_t policy = EvictFirstPolicy();
  for (int k = 0; k < args.num_inputs; k += kChunkInputs) {
    const int bytes = 2 * min(kChunkInputs, args.num_inputs - k);
    for (int tile = first_tile; tile < end_tile; ++tile) {
      const int row = lane < kTileRows ? WeightRow<kTileRows, kEpilogue>(args, tile, lane) : -1;
      const int rows = __popc(__ballot_sync(0xffffffffu, row >= 0));
      // Each lane then copies to the stage: for racecheck, once it has itself seen it freed.
      if (ActsForWarp()) Wait(SharedAddress(&empty[at.stage]), at.parity);
      if (lane == 0) ArriveExpect(SharedAddress(&full[at.stage]), rows * bytes);
      __syncwarp();
      if (row >= 0) {
        BulkCopy(SharedAddress(stages + (at.stage * kTileRows + lane) * args.pitch),
                 args.weight + static_cast<int64_t>(row) * args.num_inputs + k, bytes,
                 SharedAddress(&full[at.stage]), policy);
      }
      at.Advance(args.stages);
    }
  }
}

// 1 / the root mean square of every token's row, by the producer warp, which has time for it: four
// lanes a token, of eight tokens at once. What is not deferred needs nothing of the kernel before:
// the stream of weights goes on.
template <int kTokenBlocks>
__device__ void ProvideNormFactors(const SkinnyArgs& args, float* factors, int lane) {
  if (args.norm.squares == nullptr) {
    if (lane < 8 * kTokenBlocks) factors[lane] = 1.0f;
    FactorsArrive();
    return;
  }
  WaitForPrecedingKernel();
#pragma unroll
  for (int block = 0; block < kTokenBlocks; ++block) {
    const int token = block * 8 + lane / 4;
    const float* const squares = args.norm.squares + token * args.norm.parts;
    float sum = 0.0f;
    if (token < args.tokens) {
#pragma unroll 8
      for (int part = lane % 4; part < args.norm.parts; part += 4) sum += squares[part];
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const float mean = sum / static_cast<float>(args.num_inputs);
    if (lane % 4 == 0) factors[token] = rsqrtf(mean + args.norm.epsilon);
  }
  FactorsArrive();
}

template <int kTokenBlocks, int kTileRows, int kGroupTiles, int kHeldChunks,
          LinearEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 2)
    SkinnyLinearKernel(const __grid_constant__ SkinnyArgs args) {
  extern __shared__ __align__(128) char shared[];
  uint64_t* full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* empty = full + kMaxStages;
  float* factors = reinterpret_cast<float*>(shared + kBarrierBytes);
  char* stages = shared + kHeadBytes;

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int first_tile = blockIdx.x * args.tiles_per_cta;
  const int end_tile = min(first_tile + args.tiles_per_cta, args.tiles);
  const bool one_group = args.tiles_per_cta <= kGroupTiles;
  // With one group of tiles the partial sums reuse the stages, all consumed by then.
  float4* partial =
      reinterpret_cast<float4*>(one_group ? stages : stages + args.stages * kTileRows * args.pitch);

  if (warp == kWarps) {
    if (lane == 0) {
      for (int s = 0; s < args.stages; ++s) {
        InitBarrier(SharedAddress(&full[s]), 1);
        InitBarrier(SharedAddress(&empty[s]), kWarps * kArrivalsAWarp);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
  }
  __syncthreads();
  LetNextKernelStart();
  if (warp == kWarps) {
    RingPosition at{.stage = 0, .parity = 1};
    for (int tile = first_tile; tile < end_tile; tile += kGroupTiles) {
      ProduceGroup<kTileRows, kEpilogue>(args, stages, full, empty, tile,
                                         min(tile + kGroupTiles, end_tile), lane, at);
      // Before other groups: at the end of the first one the consumers wait for the factors, and
      // free no stage meanwhile.
      if (tile == first_tile) ProvideNormFactors<kTokenBlocks>(args, factors, lane);
    }
    return;
  }
  WaitForPrecedingKernel();

  const int g = lane >> 2;
  const int t = lane & 3;
  const int chunks = (args.num_inputs + kChunkInputs - 1) / kChunkInputs;
  uint4 x[kHeldChunks][kTokenBlocks][kSteps];
  const auto load_x = [&](int first_chunk) {
#pragma unroll
    for (int h = 0; h < kHeldChunks; ++h) {
#pragma unroll
      for (int b = 0; b < kTokenBlocks; ++b) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const int k = (first_chunk + h) * kChunkInputs + warp * kWarpInputs + step * 32 + 8 * t;
          const int token = b * 8 + g;
          x[h][b][step] = make_uint4(0, 0, 0, 0);
          if (token < args.tokens && k < args.num_inputs) {
            x[h][b][step] = *reinterpret_cast<const uint4*>(args.x + token * args.x_stride + k);
          }
        }
      }
    }
  };

  RingPosition at{.stage = 0, .parity = 0};
  load_x(0);
  for (int group = first_tile; group < end_tile; group += kGroupTiles) {
    float acc[kGroupTiles][kTokenBlocks][4] = {};
    const int group_tiles = min(kGroupTiles, end_tile - group);
    // A warp stores at most one tile of one block of tokens.
    static_assert(kGroupTiles * kTokenBlocks <= kWarps);
    const bool stores = warp < group_tiles * kTokenBlocks;
    const SkinnyOutputs<kTileRows, kEpilogue> outputs(
        args, group + (stores ? warp / kTokenBlocks : 0), warp % kTokenBlocks, lane);
    for (int chunk = 0; chunk < chunks; chunk += kHeldChunks) {
      if (chunk > 0 || (group > first_tile && chunks > kHeldChunks)) load_x(chunk);
#pragma unroll
      for (int h = 0; h < kHeldChunks; ++h) {
        if (chunk + h >= chunks) break;
        const int steps = (args.num_inputs - (chunk + h) * kChunkInputs - warp * kWarpInputs) / 32;
#pragma unroll
        for (int tile = 0; tile < kGroupTiles; ++tile) {
          if (tile >= group_tiles) break;
          Wait(SharedAddress(&full[at.stage]), at.parity);
          const char* rows =
              stages + (at.stage * kTileRows + g) * args.pitch + 2 * (warp * kWarpInputs + 8 * t);
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            if (step >= steps) break;
            const uint4 low = *reinterpret_cast<const uint4*>(rows + 64 * step);
            uint4 high = make_uint4(0, 0, 0, 0);
            if constexpr (kTileRows == 16) {
              high = *reinterpret_cast<const uint4*>(rows + 8 * args.pitch + 64 * step);
            }
#pragma unroll
            for (int b = 0; b < kTokenBlocks; ++b) {
              const uint4 v = x[h][b][step];
              Mma(acc[tile][b], low.x, high.x, low.y, high.y, v.x, v.y);
              Mma(acc[tile][b], low.z, high.z, low.w, high.w, v.z, v.w);
            }
          }
          ArriveAsWarp(SharedAddress(&empty[at.stage]));
          at.Advance(args.stages);
        }
      }
    }
    ConsumersSync();
#pragma unroll
    for (int tile = 0; tile < kGroupTiles; ++tile) {
#pragma unroll
      for (int b = 0; b < kTokenBlocks; ++b) {
        const float(&c)[4] = acc[tile][b];
        partial[((warp * kGroupTiles + tile) * kTokenBlocks + b) * 32 + lane] =
            make_float4(c[0], c[1], c[2], c[3]);
      }
    }
    if (group == first_tile) {
      FactorsSync();
    } else {
      ConsumersSync();
    }
    if (!stores) continue;
    constexpr int kUnits = kGroupTiles * kTokenBlocks * 32;
    float4 z = partial[threadIdx.x];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      const float4 p = partial[w * kUnits + threadIdx.x];
      z.x += p.x;
      z.y += p.y;
      z.z += p.z;
      z.w += p.w;
    }
    outputs.Store(args, z, factors);
  }
}

using Kernel = void (*)(SkinnyArgs);

struct Variant {
  Kernel kernel;
  int tile_rows;
  int group_tiles;
  int token_blocks;
};

template <LinearEpilogue kEpilogue>
Variant ChooseVariant(int tokens, int tile_rows, int tiles_per_cta) {
  if (tokens <= 8) {
    if (tile_rows == 8) return {SkinnyLinearKernel<1, 8, 1, 3, kEpilogue>, 8, 1, 1};
    if (tiles_per_cta == 1) return {SkinnyLinearKernel<1, 16, 1, 3, kEpilogue>, 16, 1, 1};
    return {SkinnyLinearKernel<1, 16, 3, 1, kEpilogue>, 16, 3, 1};
  }
  if (tile_rows == 8) return {SkinnyLinearKernel<2, 8, 1, 1, kEpilogue>, 8, 1, 2};
  if (tiles_per_cta == 1) return {SkinnyLinearKernel<2, 16, 1, 1, kEpilogue>, 16, 1, 2};
  return {SkinnyLinearKernel<2, 16, 3, 1, kEpilogue>, 16, 3, 2};
}

Variant ChooseVariant(LinearEpilogue epilogue, int tokens, int tile_rows, int tiles_per_cta) {
  switch (epilogue) {
    case LinearEpilogue::kStore:
      break;
    case LinearEpilogue::kAccumulate:
      return ChooseVariant<LinearEpilogue::kAccumulate>(tokens, tile_rows, tiles_per_cta);
    case LinearEpilogue::kSiluAndMul:
      return ChooseVariant<LinearEpilogue::kSiluAndMul>(tokens, tile_rows, tiles_per_cta);
  }
  return ChooseVariant<LinearEpilogue::kStore>(tokens, tile_rows, tiles_per_cta);
}

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

void CheckParams(const LinearParams& p, int compute_capability_major) {
  Check(compute_capability_major == 9, kOp, "device", "of compute capability 9.x",
        compute_capability_major);
  CheckOperands(kOp, p);
  Check(p.tokens >= 1 && p.tokens <= kMaxSkinnyTokens, kOp, "tokens", "1..16", p.tokens);
  Check(p.num_inputs > 0 && p.num_inputs % 64 == 0, kOp, "num_inputs", "a positive multiple of 64",
        p.num_inputs);
  Check(p.y_stride == 0 || p.y_stride >= OutputWidth(p), kOp, "y_stride",
        "0, or no less than y's width", static_cast<double>(p.y_stride));
}

// Whichever tile height leaves the busiest SM fewer rows.
int ChooseTileRows(int num_outputs, int num_sms) {
  const int rows16 = 16 * CeilDiv(CeilDiv(num_outputs, 16), num_sms);
  const int rows8 = 8 * CeilDiv(CeilDiv(num_outputs, 8), num_sms);
  return rows8 < rows16 ? 8 : 16;
}

void CheckNorms(const LinearParams& p) {
  if (p.norm.squares != nullptr) {
    Check(p.norm.parts >= 1 && p.norm.parts <= kMaxSquareParts, kOp, "norm.parts", "1..128",
          p.norm.parts);
    Check(p.norm.epsilon >= 0.0f, kOp, "norm.epsilon", "non-negative", p.norm.epsilon);
  }
  if (p.next_norm.weight == nullptr) return;
  Check(p.epilogue == LinearEpilogue::kAccumulate, kOp, "next_norm", "given with kAccumulate only",
        static_cast<double>(p.epilogue));
  Check(p.next_norm.scaled && p.next_norm.squares, kOp, "next_norm.scaled, next_norm.squares",
        "given; null operands", !p.next_norm.scaled + !p.next_norm.squares);
}

SkinnyArgs MakeArgs(const LinearParams& p, int tile_rows, int num_sms) {
  SkinnyArgs args;
  args.x = p.x;
  args.x_stride = XStride(p);
  args.weight = p.weight;
  args.bias = p.bias;
  args.y = p.y;
  args.y_stride = YStride(p);
  args.tokens = p.tokens;
  args.num_outputs = p.num_outputs;
  args.num_inputs = p.num_inputs;
  args.tiles = CeilDiv(p.num_outputs, tile_rows);
  args.tiles_per_cta = CeilDiv(args.tiles, num_sms);
  args.y_is_float = p.y_dtype == DType::kFloat32;
  args.norm = p.norm;
  if (p.norm.squares == nullptr) args.norm.parts = 0;
  args.next_norm = p.next_norm;
  args.pitch = 2 * std::min(kChunkInputs, p.num_inputs);
  if (args.pitch % 128 == 0) args.pitch += 64;
  return args;
}

}  // namespace

int SkinnySquareParts(int num_outputs, const Device& device) {
  const int num_sms = DeviceAttribute(kOp, cudaDevAttrMultiProcessorCount, device.index);
  const int parts = CeilDiv(num_outputs, ChooseTileRows(num_outputs, num_sms));
  return parts <= kMaxSquareParts ? parts : 0;
}

void SkinnyLinear(const LinearParams& p, const Stream& stream) {
  Check(stream.device().type == DeviceType::kCuda, kOp, "stream", "a GPU's, device type", -1);
  const int device = stream.device().index;
  CheckNorms(p);
  CheckParams(p, DeviceAttribute(kOp, cudaDevAttrComputeCapabilityMajor, device));
  const int num_sms = DeviceAttribute(kOp, cudaDevAttrMultiProcessorCount, device);
  const int tile_rows = IsGated(p) ? 16 : ChooseTileRows(p.num_outputs, num_sms);
  SkinnyArgs args = MakeArgs(p, tile_rows, num_sms);
  Check(p.next_norm.weight == nullptr || args.tiles <= kMaxSquareParts, kOp, "next_norm",
        "given for at most 128 tiles of outputs; tiles", args.tiles);
  const Variant variant = ChooseVariant(p.epilogue, p.tokens, tile_rows, args.tiles_per_cta);

  const int stage_bytes = tile_rows * args.pitch;
  const int partial_bytes = kWarps * variant.group_tiles * variant.token_blocks * 512;
  const bool one_group = args.tiles_per_cta <= variant.group_tiles;
  const int items = args.tiles_per_cta * CeilDiv(p.num_inputs, kChunkInputs);
  const int budget = kSharedBudget - (one_group ? 0 : partial_bytes);
  args.stages = std::min({items, kMaxStages, std::max(2, budget / stage_bytes)});
  int bytes = args.stages * stage_bytes;
  bytes = one_group ? std::max(bytes, partial_bytes) : bytes + partial_bytes;
  bytes += kHeadBytes;

  CheckCuda(
      cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), kOp,
      "shared memory");
  KernelLaunch launch(CeilDiv(args.tiles, args.tiles_per_cta), /*cluster=*/1, kThreads, bytes,
                      stream.cuda_stream());
  if (p.programmatic_launch) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, variant.kernel, args), kOp, "launch");
}

}  // namespace parallax::kernels::cuda
