// Decoder: the forward pass, as plain op calls over a ForwardBatch.
//
// Per layer, with every activation in fp32 and one row per token of the batch:
//   [q r k v]  = RMSNorm(x) W_qrkv^T              q, r, k: per-head norm (optional) and RoPE
//   cache      <- k, v                            before they are read: always read as stored
//   x         += Attention(q, r, cache) W_o^T     Parallax, or softmax without a probe
//   x         += (silu(g) * u) W_down^T           [g u] = RMSNorm(x) W_gate_up^T
// and at the end hidden = RMSNorm(x), logits = hidden W_lm_head^T for the rows asked for.
//
// A row's results depend on its own sequence alone, bit for bit: not on the rest of the batch,
// the chunking of its prompt or the number of threads. Every op below gives that guarantee.
//
// All activations are allocated when the decoder is made, for max_num_batched_tokens rows.
//
// Thread safety: one thread at a time. Methods other than Create throw kernels::KernelError.
#ifndef PARALLAX_ENGINE_MODELS_DECODER_H_
#define PARALLAX_ENGINE_MODELS_DECODER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "engine/models/communicator.h"
#include "engine/models/host_buffer.h"
#include "engine/models/model_config.h"
#include "engine/models/weights.h"
#include "engine/runner/forward_batch.h"
#include "kernels/kv_cache_view.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax {

struct DecoderOptions {
  int32_t max_num_batched_tokens = 0;
  int32_t max_context_tokens = 0;  // positions of the rotary table, keys of an attention row
  int32_t max_logits_rows = 0;     // of one call of Logits
};

/// Bytes that a decoder takes beside its weights.
struct DecoderMemory {
  int64_t activations = 0;
  int64_t rope_table = 0;
  int64_t probe_states = 0;  // attention's workspace
  int64_t total() const { return activations + rope_table + probe_states; }
};

class Decoder {
 public:
  /// INVALID_ARGUMENT when the ops cannot serve this shape, naming it. Throws nothing.
  /// `weights`, `communicator` and the stream's pool outlive the decoder.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(const ModelConfig& config,
                                                         const DecoderWeights& weights,
                                                         const DecoderOptions& options,
                                                         Communicator& communicator,
                                                         const kernels::Stream& stream);

  /// INVALID_ARGUMENT when the ops cannot serve this shape.
  static absl::Status CheckSupported(const ModelConfig& config);
  /// REQUIRES: CheckSupported(config).ok().
  static DecoderMemory MemoryFor(const ModelConfig& config, const DecoderOptions& options,
                                 const kernels::Stream& stream);

  /// Runs every layer. `token_ids` are the batch's with kTokenFromSlot resolved; `caches` is
  /// one view a layer.
  void Forward(const ForwardBatch& batch, std::span<const int32_t> token_ids,
               std::span<const kernels::KvCacheView> caches);

  /// logits [rows.size(), vocab] of these token rows of the last Forward.
  void Logits(std::span<const int32_t> rows, const kernels::TensorView& logits);

  /// logits [count, column_end - column_begin] of token rows first_row .. first_row + count - 1:
  /// a vocabulary slice, for callers that fold slices and never hold whole rows. column_begin
  /// is a multiple of kernels::kPanelWidth.
  void LogitsSlice(int32_t first_row, int32_t count, int64_t column_begin, int64_t column_end,
                   const kernels::TensorView& logits);

 private:
  Decoder(const ModelConfig& config, const DecoderWeights& weights, const DecoderOptions& options,
          Communicator& communicator, const kernels::Stream& stream);

  absl::Status Allocate();
  kernels::TensorView Hidden(float* data, int64_t rows) const;
  void Attention(int64_t layer_index, const ForwardBatch& batch, const kernels::KvCacheView& cache);
  void Mlp(const DecoderLayerWeights& layer, int64_t tokens);
  void Project(const kernels::ConstTensorView& x, const LinearWeights& linear,
               const kernels::TensorView& y);

  const ModelConfig config_;
  const DecoderWeights& weights_;
  const DecoderOptions options_;
  Communicator& communicator_;
  const kernels::Stream stream_;

  HostBuffer activations_;
  HostBuffer rope_;
  HostBuffer workspace_;
  kernels::ConstTensorView rope_table_;  // [max_context_tokens, head_dim]

  // Within activations_. The attention block's tensors and the MLP's are never alive together
  // and share their memory.
  float* residual_ = nullptr;   // [tokens, hidden]
  float* hidden_ = nullptr;     // [tokens, hidden] normed input of a block; at the end, the output
  float* projected_ = nullptr;  // [tokens, hidden] output of a block
  float* gathered_ = nullptr;   // [max_logits_rows, hidden]
  float* qrkv_ = nullptr;       // [tokens, qrkv_rows]
  float* attended_ = nullptr;   // [tokens, q_rows]
  float* gate_up_ = nullptr;    // [tokens, 2 * intermediate]
  float* activated_ = nullptr;  // [tokens, intermediate]
  int64_t num_tokens_ = 0;      // of the last Forward
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_DECODER_H_
