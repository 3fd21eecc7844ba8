#include "kernels/cuda/linear/tile_kernel.cuh"

namespace parallax::kernels::cuda {

template TileKernel TileKernelFor<TileOutput::kFloat32>(int);

}  // namespace parallax::kernels::cuda
