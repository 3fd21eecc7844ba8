// The forward pass on one GPU, as plain op calls over a step that lies in device memory.
//
// Per layer, with the residual stream x in float32 and everything else in bfloat16:
//   [q r k v]  = RMSNorm(x) W_qrkv^T         then per-head norm and RoPE of q, r, k; cache <- k, v
//   x         += Attention(q, r, cache) W_o^T
//   x         += (silu(g) * u) W_down^T      [g u] = RMSNorm(x) W_gate_up^T
// The sums into x, and the gate, are epilogues of the projections. Sequences of one row go
// through the decode kernel, the others through prefill; both compute softmax for a model without
// a probe. In a step that has both they run side by side: decode waits for memory, prefill for the
// matrix units, and few rows leave multiprocessors free.
//
// Every call only enqueues, reads what varies on the device and can be captured.
//
// Thread safety: one thread at a time. Errors: KernelError.
#ifndef PARALLAX_ENGINE_CUDA_CUDA_DECODER_H_
#define PARALLAX_ENGINE_CUDA_CUDA_DECODER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cuda/device_weights.h"
#include "engine/cuda/step_layout.h"
#include "engine/models/communicator.h"
#include "engine/models/model_config.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/linear_plans.h"
#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax {

struct CudaDecoderOptions {
  int max_tokens = 0;          // rows of a step
  int max_logits_rows = 0;     // rows of logits at once
  int max_context_tokens = 0;  // positions of the rotary table
  // Decode attention beside prefill's, else before it: the results are the same, bit for bit.
  bool overlap_attention = true;
};

/// Bytes beside the weights.
struct CudaDecoderMemory {
  int64_t activations = 0;  // with the rotary table, logits and the linear layers' workspace
  int64_t probe_states = 0;
};

/// A packed step in device memory.
struct DeviceStep {
  const std::byte* block = nullptr;
  const int32_t* block_tables = nullptr;  // [sequences, max_blocks]
  int max_blocks = 0;
  std::span<const int32_t> slot_tokens;  // what each slot sampled last
};

class CudaDecoder {
 public:
  /// `weights`, `communicator` and the stream outlive the decoder. `caches`: one a layer.
  CudaDecoder(const ModelConfig& config, const DeviceWeights& weights,
              const CudaDecoderOptions& options, const kernels::cuda::DeviceProperties& device,
              Communicator& communicator, const kernels::Stream& stream);

  static CudaDecoderMemory MemoryFor(const ModelConfig& config, const CudaDecoderOptions& options,
                                     const kernels::cuda::DeviceProperties& device);

  /// Chooses how each linear layer runs, by timing, unless `saved` (of SerializedPlans) tells.
  /// Waits for the stream.
  void TuneLinearLayers(std::string_view saved);
  std::string SerializedPlans() const { return plans_.Serialize(); }

  /// Runs every layer over the step.
  void Forward(const StepShape& shape, const DeviceStep& step,
               std::span<const kernels::cuda::PagedKvCache> caches);

  /// logits()[i] of token row first_row + i of the last Forward.
  void LogitsOfRows(int first_row, int count);
  /// logits()[i] of token row rows[i]; rows in device memory.
  void LogitsOfGatheredRows(std::span<const int32_t> rows);

  /// [max_logits_rows, vocab] float32.
  kernels::ConstTensorView logits() const;

 private:
  // Whether a step of so many tokens leaves its norms to the linear layers (DeferredNorm). Else,
  // and for the first norm and the last, Norm runs. With several devices none could: the residual
  // stream must be whole where its squares are summed.
  bool DefersNorms(int tokens) const;
  void Attention(int64_t layer_index, const StepShape& shape, const DeviceStep& step,
                 const kernels::cuda::PagedKvCache& cache, bool defers_norms);
  // One layer's attention over a step's keys and values.
  struct AttentionInputs {
    const StepShape& shape;
    const DeviceStep& step;
    int32_t window;
    const kernels::cuda::PagedKvCache& cache;
  };

  void Attend(const AttentionInputs& inputs);
  void AttendDecoding(const AttentionInputs& inputs, bool beside_prefill);
  void AttendPrefilling(const AttentionInputs& inputs);
  float softmax_scale() const;
  void Mlp(int64_t layer_index, int tokens, bool defers_norms);
  void Norm(const float* weight, int tokens);
  kernels::cuda::LinearParams Params(const DeviceLinearWeights& weights, const __nv_bfloat16* x,
                                     int tokens) const;
  // From hidden_, whose norm is deferred or done.
  kernels::cuda::LinearParams NormedParams(const DeviceLinearWeights& weights, int tokens,
                                           bool is_deferred) const;
  // Into residual_; into hidden_ as well if a norm that is deferred follows, else null.
  kernels::cuda::LinearParams AccumulateParams(const DeviceLinearWeights& weights,
                                               const __nv_bfloat16* x, int tokens,
                                               const float* deferred_norm) const;
  kernels::cuda::LinearParams QrkvParams(const DeviceLinearWeights& weights, int tokens,
                                         bool is_deferred) const;
  kernels::cuda::LinearParams GateUpParams(const DeviceLinearWeights& weights, int tokens,
                                           bool is_deferred) const;
  kernels::cuda::LinearParams LogitsParams(const __nv_bfloat16* x, int tokens) const;
  std::vector<kernels::cuda::LinearParams> AllLinearLayers() const;
  void Run(const kernels::cuda::LinearParams& params) {
    plans_.Run(params, linear_workspace_, stream_);
  }
  kernels::TensorView Heads(__nv_bfloat16* data, int first_row, int rows, int64_t stride) const;

  const ModelConfig config_;
  const DeviceWeights& weights_;
  const CudaDecoderOptions options_;
  const kernels::cuda::DeviceProperties device_;
  Communicator& communicator_;
  const kernels::Stream stream_;
  kernels::cuda::LinearPlans plans_;

  kernels::cuda::DeviceBuffer memory_;
  kernels::cuda::DeviceBuffer probe_states_;
  // Within memory_. The attention block's tensors and the MLP's are never alive together.
  float* residual_ = nullptr;           // [tokens, hidden]
  __nv_bfloat16* hidden_ = nullptr;     // [tokens, hidden] normed, or as NextNorm::scaled; at the
                                        // end, the output
  float* squares_ = nullptr;            // of hidden_, as NextNorm::squares
  int square_parts_ = 0;                // 0, as for 8B's hidden size: no norm is ever deferred
  __nv_bfloat16* qrkv_ = nullptr;       // [tokens, qrkv_rows]
  __nv_bfloat16* attended_ = nullptr;   // [tokens, q_rows]
  __nv_bfloat16* activated_ = nullptr;  // [tokens, intermediate], where qrkv_ is
  __nv_bfloat16* gathered_ = nullptr;   // [logits rows, hidden]
  float* logits_ = nullptr;
  float* rope_table_ = nullptr;  // [max_context_tokens, head_dim]
  std::span<std::byte> linear_workspace_;
  std::span<std::byte> decode_workspace_;
  std::span<std::byte> prefill_workspace_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_CUDA_DECODER_H_
