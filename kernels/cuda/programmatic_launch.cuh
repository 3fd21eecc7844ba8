// Programmatic dependent launch: a kernel may start while the one before it on the stream still
// runs, up to the point where it needs what that one wrote. What its blocks do until then
// (starting, reading parameters, copying weights) costs nothing.
//
// A kernel launched so calls WaitForPrecedingKernel() in every block before it reads or writes
// anything that earlier work on the stream touches; LetNextKernelStart() as early as possible. The
// exception is a pair that runs side by side: prefill lets decode start only when what both read is
// complete, and decode need not wait (ParallaxDecodeParams::beside_preceding).
//
// The wait does nothing in a kernel that was launched plainly, LetNextKernelStart() nothing ahead
// of one. Both do nothing in code compiled for less than 9.0, which is what a build without 9.0
// runs on every GPU and any build may run on a GPU after Hopper. LaunchEarly launches such code
// plainly: started early, it would read what is not written yet.
//
// Thread safety: as Stream. Errors: KernelError for a launch that is refused.
#ifndef PARALLAX_KERNELS_CUDA_PROGRAMMATIC_LAUNCH_CUH_
#define PARALLAX_KERNELS_CUDA_PROGRAMMATIC_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <type_traits>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// Until everything that precedes on the stream has completed and its writes are visible.
__device__ inline void WaitForPrecedingKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel starts once every block has called this or ended.
__device__ inline void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether the code that a GPU of this major compute capability loads from this build waits. Where
// 9.0 was compiled for, Hopper loads that. A later GPU may load the PTX of 8.0: sm_90a has none
// that others take.
constexpr bool LoadsCodeThatWaits(int major) {
  constexpr int kCompiledFor[] = {__CUDA_ARCH_LIST__};
  return major == 9 && std::ranges::find(kCompiledFor, 900) != std::end(kCompiledFor);
}

// Launches `kernel` early where its code waits. Behind anything but a kernel it starts as usual.
template <typename... Params>
void LaunchEarly(std::string_view op, void (*kernel)(Params...), dim3 grid, int threads,
                 const Stream& stream, const std::type_identity_t<Params>&... params) {
  int major = 0;
  CheckCuda(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, stream.device().index), op,
      "device attribute");
  KernelLaunch launch(grid, /*cluster=*/1, threads, /*shared_bytes=*/0, stream.cuda_stream());
  if (LoadsCodeThatWaits(major)) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, kernel, params...), op, "launch");
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PROGRAMMATIC_LAUNCH_CUH_
