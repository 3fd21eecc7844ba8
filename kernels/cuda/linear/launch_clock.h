// Times launches on a stream by replaying them in a CUDA graph, so that what is measured is the
// GPU's work and not the host's.
//
// Thread safety: as Stream. Allocates and waits: for the program's start. Errors: KernelError.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_LAUNCH_CLOCK_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_LAUNCH_CLOCK_H_

#include <functional>

#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// The least milliseconds of so many replays, after a first one, of what `launch` enqueues on the
// stream, which must not be a device's default stream.
double TimeLaunches(const Stream& stream, int replays, const std::function<void()>& launch);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_LAUNCH_CLOCK_H_
