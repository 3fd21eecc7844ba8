// Where a producer or a consumer of a ring of stages is.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_RING_CURSOR_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_RING_CURSOR_CUH_

#include <cstdint>

namespace parallax::kernels::cuda {

// Walks a ring of stages: the index and the parity of the phase it is in.
template <int kStages>
struct RingCursor {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_RING_CURSOR_CUH_
