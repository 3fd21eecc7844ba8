// The PTX instructions of TensorLinear that ptx/ptx_sm90.cuh does not have: tensor copies,
// arrivals at a barrier of another CTA, loads from shared memory.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace parallax::kernels::cuda {

// Brings the map itself near, so that the first copy need not wait for it.
__device__ inline void PrefetchTensorMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// The box of a matrix at (column, row), to shared memory. What lies outside the matrix arrives as
// zeros, and counts on the barrier as if it had been read.
__device__ inline void CopyBox(uint32_t destination, const CUtensorMap& map, int column, int row,
                               uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

__device__ inline void CopyBox(uint32_t destination, const CUtensorMap& map, int column, int row,
                               uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

// The same of a tensor of four dimensions, at (column, 0, 0, group).
__device__ inline void CopyGroupBox(uint32_t destination, const CUtensorMap& map, int column,
                                    int group, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(destination),
      "l"(&map), "r"(column), "r"(0), "r"(group), "r"(barrier), "l"(policy)
      : "memory");
}

// At a barrier of any CTA of the cluster (an address of RemoteAddress), to let peers overwrite what
// this CTA has read from its own shared memory. The release of CTA scope, which is the default:
// at cluster scope it would also wait for this thread's stores to global memory.
__device__ inline void ArriveRemote(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// 16 bytes of the own shared memory.
__device__ inline float4 LoadShared(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cta.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_
