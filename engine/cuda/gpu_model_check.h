// Whether the GPU's ops serve a model of this shape.
//
// Thread safety: a pure function.
#ifndef PARALLAX_ENGINE_CUDA_GPU_MODEL_CHECK_H_
#define PARALLAX_ENGINE_CUDA_GPU_MODEL_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/models/model_config.h"

namespace parallax {

/// Of a KV head: what ParallaxDecode takes (kernels/cuda/parallax_decode.h).
inline constexpr int kMaxGpuQueryHeadsPerKvHead = 16;
/// What RmsNorm takes (kernels/cuda/rms_norm.h).
inline constexpr int64_t kMaxGpuHiddenSize = 16384;
/// What Sample takes (kernels/cuda/sampling.h).
inline constexpr int64_t kMaxGpuVocabulary = int64_t{1} << 20;

/// INVALID_ARGUMENT naming the field of config.json, its value and what would be served.
absl::Status CheckGpuServes(const ModelConfig& config);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_GPU_MODEL_CHECK_H_
