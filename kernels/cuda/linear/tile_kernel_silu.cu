#include "kernels/cuda/linear/tile_kernel.cuh"

namespace parallax::kernels::cuda {

template TileKernel TileKernelFor<TileOutput::kSiluAndMul>(int);

}  // namespace parallax::kernels::cuda
