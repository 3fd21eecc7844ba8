// Decode for GPUs that have no decode kernel of their own: a step's rows are short chunks to the
// portable attention kernel.
//
// Thread safety, errors: as ParallaxDecode.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PORTABLE_DECODE_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PORTABLE_DECODE_H_

#include <cstddef>

#include "kernels/cuda/parallax_decode.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

size_t PortableDecodeWorkspaceBytes();
size_t PortableDecodeCounterBytes();

// For params that have passed ParallaxDecode's checks. Rows of q and r must lie on 16 bytes.
void PortableDecode(const ParallaxDecodeParams& params, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PORTABLE_DECODE_H_
