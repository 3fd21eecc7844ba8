// Whether kernels synchronise as compute-sanitizer can follow, which costs time. Defined for the
// sources that are compiled for sm_90a alone: other translation units do not include this.
#ifndef PARALLAX_KERNELS_CUDA_PTX_FOR_SANITIZER_CUH_
#define PARALLAX_KERNELS_CUDA_PTX_FOR_SANITIZER_CUH_

namespace parallax::kernels::cuda {

#ifdef PARALLAX_COMPUTE_SANITIZER
inline constexpr bool kForSanitizer = true;
#else
inline constexpr bool kForSanitizer = false;
#endif

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PTX_FOR_SANITIZER_CUH_
