// A warp's arrival at a barrier, once all of its lanes are done with a place in shared memory that
// is written anew by who waits there.
//
// The lanes are ordered among themselves, and one arrives for all. racecheck does not follow an
// order through __syncwarp() and would report what is written next; for its sake
// (kForSanitizer) every lane arrives for itself.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_PTX_WARP_ARRIVAL_CUH_
#define PARALLAX_KERNELS_CUDA_PTX_WARP_ARRIVAL_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/for_sanitizer.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kArrivalsAWarp = kForSanitizer ? 32 : 1;

// Whether this lane acts for its warp, of which a lane is wanted for each of some barriers. Orders
// no lanes.
__device__ inline bool ActsForWarp(int barriers = 1) {
  const int lane = threadIdx.x % 32;
  return kForSanitizer || lane < barriers;
}

__device__ inline void ArriveAsWarp(uint32_t barrier) {
  if constexpr (!kForSanitizer) __syncwarp();
  if (ActsForWarp()) Arrive(barrier);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PTX_WARP_ARRIVAL_CUH_
