// The start of a cluster, whose CTAs show each other barriers in shared memory before they write
// there: every thread arrives early and waits late, so that what lies between costs nothing.
//
// compute-sanitizer of CUDA 13.0 hangs in what lies between: every tool of it in a cp.async,
// racecheck in other kernels too. For its sake (kForSanitizer) all meet at once.
//
// Thread safety: device code. Every thread of the cluster calls one of ArriveAtPeers() and
// ArriveAtPeersRelaxed(), later AwaitPeers(), once each, and in between, for the sanitizer's sake,
// MeetForSanitizer(); all lanes of a warp together. Nothing is written to a peer before
// AwaitPeers().
#ifndef PARALLAX_KERNELS_CUDA_PTX_CLUSTER_START_CUH_
#define PARALLAX_KERNELS_CUDA_PTX_CLUSTER_START_CUH_

#include "kernels/cuda/ptx/for_sanitizer.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

// Shows the cluster what this thread has written to shared memory.
__device__ inline void ArriveAtPeers() {
  if constexpr (!kForSanitizer) ClusterArrive();
}

// Of a warp that has nothing to show: does not wait for its memory operations.
__device__ inline void ArriveAtPeersRelaxed() {
  if constexpr (!kForSanitizer) ClusterArriveRelaxed();
}

// Until all have arrived and may be written to.
__device__ inline void AwaitPeers() {
  if constexpr (!kForSanitizer) ClusterWait();
}

// Does the work of the others, which do nothing then, once what is to be shown is written.
__device__ inline void MeetForSanitizer() {
  if constexpr (kForSanitizer) {
    ClusterArrive();
    ClusterWait();
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PTX_CLUSTER_START_CUH_
