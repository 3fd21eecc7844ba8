// The weights of a decoder in GPU memory: one allocation, matrices bfloat16 and row-major, norms
// float32, fused as tensor_layout.h says.
//
// Tensors go from the mapped files through two pinned buffers, so that reading one piece
// overlaps with copying the one before. float16 and float32 checkpoints are rounded to bfloat16,
// the type of the GPU's ops, on the way.
//
// Thread safety: immutable after loading.
// Errors: those of TensorSource and of PreparationStatus.
#ifndef PARALLAX_ENGINE_CUDA_DEVICE_WEIGHTS_H_
#define PARALLAX_ENGINE_CUDA_DEVICE_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/models/model_config.h"
#include "engine/models/tensor_source.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/linear.h"
#include "kernels/stream.h"

namespace parallax {

struct DeviceLinearWeights {
  const __nv_bfloat16* weight = nullptr;  // [outputs, inputs]
  const __nv_bfloat16* bias = nullptr;    // [outputs], or null
  int outputs = 0;
  int inputs = 0;
};

struct DeviceLayerWeights {
  const float* input_norm = nullptr;  // [hidden]
  DeviceLinearWeights qrkv;           // q, r, k, v rows
  const float* q_norm = nullptr;      // [head_dim] each, or null
  const float* r_norm = nullptr;
  const float* k_norm = nullptr;
  DeviceLinearWeights o;
  const float* post_attention_norm = nullptr;
  DeviceLinearWeights gate_up;
  DeviceLinearWeights down;
};

struct DeviceWeights {
  kernels::cuda::DeviceBuffer memory;  // everything below points into it
  std::vector<DeviceLayerWeights> layers;
  const __nv_bfloat16* embedding = nullptr;  // [vocab, hidden]
  const float* final_norm = nullptr;
  DeviceLinearWeights lm_head;  // the embedding when tied
  int64_t num_parameters = 0;   // of the checkpoint: a tied embedding counts once
};

/// Bytes of DeviceWeights::memory, known before anything is read.
int64_t DeviceWeightBytes(const ModelConfig& config);

/// Returns when every tensor has arrived.
absl::StatusOr<std::unique_ptr<const DeviceWeights>> LoadDeviceWeights(
    const ModelConfig& config, TensorSource& source, const kernels::Stream& stream);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_DEVICE_WEIGHTS_H_
