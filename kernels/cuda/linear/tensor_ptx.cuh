// The PTX instructions of TensorLinear and TileLinear that ptx/ptx_sm90.cuh does not have: tensor
// copies, arrivals at a barrier of another CTA, loads and stores of shared memory, additions.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

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

// Without a policy of L2.
__device__ inline void CopyGroupBox(uint32_t destination, const CUtensorMap& map, int column,
                                    int group, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %3, %4}], [%5];" ::"r"(destination),
      "l"(&map), "r"(column), "r"(0), "r"(group), "r"(barrier)
      : "memory");
}

// The box to the same place of all CTAs of the cluster whose rank's bit is set in `ranks`; it
// counts on the barrier in the same place of each.
__device__ inline void CopyBoxToMany(uint32_t destination, const CUtensorMap& map, int column,
                                     int row, uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(ranks)
      : "memory");
}

__device__ inline void CopyGroupBoxToMany(uint32_t destination, const CUtensorMap& map, int column,
                                          int group, uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(destination),
      "l"(&map), "r"(column), "r"(0), "r"(group), "r"(barrier), "h"(ranks)
      : "memory");
}

// At a barrier of any CTA of the cluster (an address of RemoteAddress), to let peers overwrite what
// this CTA has read from its own shared memory. The release of CTA scope, which is the default:
// at cluster scope it would also wait for this thread's stores to global memory.
__device__ inline void ArriveRemote(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// For a warp, at the barriers of `ranks` CTAs from rank `first` on; the own one's is at `barrier`.
// REQUIRES: ActsForWarp(ranks).
__device__ inline void ArriveAtRanks(uint32_t barrier, int first, int ranks) {
  if constexpr (!kForSanitizer) {
    ArriveRemote(RemoteAddress(barrier, first + threadIdx.x % 32));
  } else {
    for (int i = 0; i < ranks; ++i) ArriveRemote(RemoteAddress(barrier, first + i));
  }
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

__device__ inline void StoreShared(uint32_t address, float4 value) {
  asm volatile("st.shared::cta.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

// A 16-byte aligned copy from the own shared memory to another CTA's, by the copy engine; it counts
// on a barrier of that CTA (both are addresses of RemoteAddress).
__device__ inline void SendShared(uint32_t destination, uint32_t source, uint32_t bytes,
                                  uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(destination),
      "r"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

// Four numbers to memory that others do not write, without waiting for what is there.
__device__ inline void AddToGlobal(float* address, float4 value) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

// 8x8 matrices of 16-bit elements, transposed on their way: lane l gives the address of column l %
// 8 of matrix l / 8.
__device__ inline void StoreMatrixTransposed(uint32_t address, uint32_t matrix) {
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(address),
               "r"(matrix)
               : "memory");
}

__device__ inline void StoreMatricesTransposed(uint32_t address, uint32_t first, uint32_t second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(first), "r"(second)
               : "memory");
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PTX_CUH_
