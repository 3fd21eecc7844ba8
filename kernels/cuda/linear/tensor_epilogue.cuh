// From the sums of products to y, for TensorLinear.
//
// A unit is what one instruction's accumulators are for 16 rows of a tile and 8 tokens: lane
// (g, t) = (lane / 4, lane % 4) of a warp has rows g and g + 8 of tokens 2t and 2t + 1. Two lanes
// exchange halves, so that each stores two neighbouring outputs of one token.
//
// Thread safety: device code; a unit is stored by all lanes of a warp together.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_EPILOGUE_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_EPILOGUE_CUH_

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/tensor_args.h"
#include "kernels/cuda/linear/tensor_split.h"

namespace parallax::kernels::cuda {

__device__ inline float Silu(float z) { return __fdividef(z, 1.0f + __expf(-z)); }

// Of a row and of its neighbour, four lanes on, two tokens each: gives away the token that the
// neighbour keeps, `upper` being who keeps the second. Returns both rows of the own one, the lower
// row first.
__device__ inline float2 ExchangeRows(bool upper, float lower_token, float upper_token) {
  const float received = __shfl_xor_sync(~0u, upper ? lower_token : upper_token, 4);
  return upper ? make_float2(received, upper_token) : make_float2(lower_token, received);
}

template <LinearEpilogue kEpilogue, typename Y>
class TensorUnit {
 public:
  static constexpr bool kGated = kEpilogue == LinearEpilogue::kSiluAndMul;

  // Rows 16 * block .. of tile `tile`, tokens 8 * group .. .
  __device__ TensorUnit(const TensorArgs& args, int tile, int block, int group) {
    const int lane = threadIdx.x % 32;
    const int g = lane / 4;
    upper_token_ = g % 2 == 1;
    const int token = 8 * group + 2 * (lane % 4) + (upper_token_ ? 1 : 0);
    // Gated blocks hold 8 outputs: their gates in rows 0..7, their ups in rows 8..15.
    const int row_of_block =
        kGated ? tile * (kTensorTileRows / 2) + 8 * block : tile * kTensorTileRows + 16 * block;
    row_ = row_of_block + (g & ~1);
    const int width = kGated ? args.num_outputs / 2 : args.num_outputs;
    second_row_ = kGated ? row_ + width : row_ + 8;
    // num_outputs comes in eights: two neighbours are both there, or neither.
    exists_ = token < args.tokens && row_ < width;
    second_exists_ = exists_ && (kGated || second_row_ < width);
    y_ = static_cast<Y*>(args.y) + token * args.y_stride + row_;
  }

  // What y has in a lane's places.
  struct Old {
    float2 first = {0.0f, 0.0f};
    float2 second = {0.0f, 0.0f};
  };

  // Asks for what is added to, if anything is. REQUIRES: the kernel before this one has completed.
  __device__ Old Load() const {
    Old old;
    if constexpr (kEpilogue == LinearEpilogue::kAccumulate) {
      if (exists_) old.first = *reinterpret_cast<const float2*>(y_);
      if (second_exists_) old.second = *reinterpret_cast<const float2*>(y_ + 8);
    }
    return old;
  }

  // z: the lane's sums, in the accumulators' order.
  __device__ void Store(const TensorArgs& args, float4 z, const Old& old) const {
    float2 first = ExchangeRows(upper_token_, z.x, z.y);
    float2 second = ExchangeRows(upper_token_, z.z, z.w);
    if (args.bias != nullptr) {
      if (exists_) AddBias(args, row_, first);
      if (second_exists_) AddBias(args, second_row_, second);
    }
    if constexpr (kGated) {
      if (exists_) Write(y_, {Silu(first.x) * second.x, Silu(first.y) * second.y});
    } else {
      if (exists_) Write(y_, PlusOld(first, old.first));
      if (second_exists_) Write(y_ + 8, PlusOld(second, old.second));
    }
  }

 private:
  static __device__ void AddBias(const TensorArgs& args, int row, float2& z) {
    const float2 bias =
        __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(args.bias + row));
    z.x += bias.x;
    z.y += bias.y;
  }

  static __device__ float2 PlusOld(float2 z, float2 old) {
    if constexpr (kEpilogue != LinearEpilogue::kAccumulate) return z;
    return {old.x + z.x, old.y + z.y};
  }

  static __device__ void Write(Y* to, float2 value) {
    if constexpr (std::is_same_v<Y, float>) {
      *reinterpret_cast<float2*>(to) = value;
    } else {
      *reinterpret_cast<__nv_bfloat162*>(to) = __float22bfloat162_rn(value);
    }
  }

  Y* y_;
  int row_;
  int second_row_;
  bool upper_token_;  // of the two that the lane's sums are of, it stores the second
  bool exists_;
  bool second_exists_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_EPILOGUE_CUH_
