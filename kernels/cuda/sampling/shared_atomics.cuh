// Accesses to this block's shared memory, said to be so. Reached through members, counters would be
// updated by generic atomics, each of which waits for the value it returns.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_SHARED_ATOMICS_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_SHARED_ATOMICS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace parallax::kernels::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// "memory": counters are cleared and read by plain accesses, which must keep their places.
__device__ __forceinline__ void SharedAdd(uint32_t address, uint32_t value) {
  asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t SharedFetchAdd(uint32_t address, uint32_t value) {
  uint32_t old;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(address), "r"(value)
               : "memory");
  return old;
}

__device__ __forceinline__ void SharedStore(uint32_t address, uint64_t value) {
  asm volatile("st.shared.u64 [%0], %1;" ::"r"(address), "l"(value) : "memory");
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SHARED_ATOMICS_CUH_
