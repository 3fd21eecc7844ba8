#include "kernels/cuda/linear/tile_kernel.cuh"

namespace parallax::kernels::cuda {

template TileKernel TileKernelFor<TileOutput::kBFloat16>(int);

}  // namespace parallax::kernels::cuda
