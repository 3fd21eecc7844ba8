// Where a logit lies in the histogram of LikelihoodProfile.
//
// A row's logits are divided into cells of one width. Those of the window in which a filter or the
// draw of a flat row ends, which is the row that has many elements in a cell, are split into bins;
// every other cell is one bin. The window's place is a guess and changes nothing but the time.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_BINS_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_BINS_CUH_

#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"

namespace parallax::kernels::cuda {

// A thread adds up a group of bins. An odd number, so that a warp's threads read different banks.
inline constexpr int kGroupBins = 21;
inline constexpr int kBinGroups = kSampleThreads;
inline constexpr int kProfileBins = kGroupBins * kBinGroups;
inline constexpr int kNoMassBin = kProfileBins - 1;  // all that lies deeper

inline constexpr int kCellBins = 16;  // of a cell in the window
inline constexpr int kWindowCells = 504;
inline constexpr int kWindowSteps = (kCellBins - 1) * kWindowCells;
inline constexpr int kLastCell = kNoMassBin - kWindowSteps;

// In units of the temperature: how far above the sample's maximum the cells reach, and how far
// below it. What is exp(-26) of the most likely is never drawn.
inline constexpr float kHeadroom = 24.0f;
inline constexpr float kDepth = 26.0f;
inline constexpr float kCellWidth = (kHeadroom + kDepth) / kLastCell;  // 0.0157

// A bin's 32 bits hold 4064 elements of a block, whatever their weights.
inline constexpr int kWeightBits = 20;

// A logit's place is that of its cell: 0 at the top, 1 in the last cell, that of kNoMassBin.
//
// The window takes kWindowSteps steps, 15 a cell. They begin at the middle of a step where cells
// begin, so that a cell's first bin and its last are half a step wide, and roundings cannot make a
// step end on the wrong side of a cell's end. A bin is the number of cells and steps before it.
struct ProfileBins {
  float top_place;  // of logit 0; any error of it moves all bins alike
  float per_logit;
  float window_place;  // of place 0 in the window, where its begin is 0 and its end 1
  int window_bin;      // the window's first

  // The window begins at the cell of `window_top`, or as near to it as it can.
  __device__ static ProfileBins For(float top, float temperature, float window_top) {
    ProfileBins bins;
    bins.per_logit = 1.0f / ((kHeadroom + kDepth) * temperature);
    bins.top_place = top * bins.per_logit;
    const int cell = __float2int_rn(bins.PlaceOf(window_top) * kLastCell);
    bins.window_bin = max(1, min(cell, kLastCell - kWindowCells));
    bins.window_place = (0.5f - static_cast<float>(bins.window_bin)) / kWindowCells;
    return bins;
  }

  __device__ __forceinline__ float PlaceOf(float logit) const {
    return SaturatedFma(logit, -per_logit, top_place);
  }
  // Adding 1.5 * 2^23 rounds to an integer that lies in the low bits.
  static constexpr float kRounder = 12582912.0f;
  static constexpr uint32_t kBias = 2 * 0x4B400000u;  // the bits of two such
  struct Position {
    uint32_t biased_bin;  // and kBias
    float offset;         // from the cell's centre, in cells
  };
  __device__ __forceinline__ Position PositionOf(float place) const {
    constexpr float kCells = kLastCell;
    const float in_window = SaturatedFma(place, kCells / kWindowCells, window_place);
    const float cell = __fmaf_rn(place, kCells, kRounder);
    const float step = __fmaf_rn(in_window, kWindowSteps, kRounder);
    return {__float_as_uint(cell) + __float_as_uint(step),
            __fmaf_rn(place, kCells, -__fsub_rn(cell, kRounder))};
  }
  __device__ int Bin(float logit) const {
    return static_cast<int>(PositionOf(PlaceOf(logit)).biased_bin - kBias);
  }

  __device__ int CellOf(int bin) const {
    const int in_window = min(max(bin - window_bin, 0), kCellBins * kWindowCells);
    return bin - in_window + static_cast<int>(static_cast<uint32_t>(in_window) / kCellBins);
  }

  // exp(-offset * width) in units of 2^-20, by its series: |offset * width| <= 0.0079. Numbers
  // above 2^23 are rounded to integers.
  __device__ __forceinline__ static uint32_t Weight(float offset) {
    constexpr float kUnits = 1 << kWeightBits;
    constexpr float kIntegers = 8388608.0f;
    constexpr float kLinear = -kCellWidth * kUnits;
    constexpr float kSquare = 0.5f * kCellWidth * kCellWidth * kUnits;
    const float weight = __fmaf_rn(offset, __fmaf_rn(offset, kSquare, kLinear), kUnits + kIntegers);
    return __float_as_uint(weight) - 0x4B000000;  // kIntegers' bits
  }

 private:
  // Between 0 and 1; 0 if not a number.
  __device__ __forceinline__ static float SaturatedFma(float a, float b, float c) {
    float result;
    asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
    return result;
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_PROFILE_BINS_CUH_
