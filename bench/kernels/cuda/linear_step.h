// The linear layers of one step of a model.
//
// Thread safety: none; one thread uses a Step.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_LINEAR_STEP_H_
#define PARALLAX_BENCH_KERNELS_CUDA_LINEAR_STEP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/linear.h"

namespace parallax::bench {

inline constexpr int kMaxTokens = 1024;

struct Model {
  const char* name;
  int hidden;
  int mlp;
  int layers;
  int projected;  // outputs of q, r, k and v together
  int attention;  // inputs of the output projection
  int vocab;
};

inline constexpr Model kModels[] = {
    {"0.6B", 1024, 3072, 28, 6144, 2048, 151936},
    {"1.7B", 2048, 6144, 28, 6144, 2048, 151936},
    {"8B", 4096, 12288, 36, 10240, 4096, 151936},
};

// The layers of one step in order, every one with weights of its own.
class Step {
 public:
  // Without `gated` the down projection reads the gate's half as it is: products alone. With
  // `mixed` the layers are as a step with a prompt's chunk has them: what leads back to the
  // residual adds to it in float32, and the head, which is for the few tokens that are sampled, is
  // left out.
  Step(const Model& model, int tokens, bool gated, bool mixed, char* weights, char* activations)
      : weights_(weights) {
    char* const x = activations;
    char* const y = x + kActivationBytes;
    char* const logits = y + kActivationBytes;
    for (int layer = 0; layer < model.layers; ++layer) {
      Add(x, 0, model.projected, model.hidden, y, tokens);
      Add(y, model.projected, model.hidden, model.attention, mixed ? logits : x, tokens);
      if (mixed) AddsToResidual(params_.back());
      Add(x, 0, 2 * model.mlp, model.hidden, y, tokens);
      if (gated) params_.back().epilogue = kernels::cuda::LinearEpilogue::kSiluAndMul;
      Add(y, gated ? 0 : 2 * model.mlp, model.hidden, model.mlp, mixed ? logits : x, tokens);
      if (mixed) AddsToResidual(params_.back());
    }
    if (mixed) return;
    Add(x, 0, model.vocab, model.hidden, logits, tokens);
    params_.back().y_dtype = kernels::DType::kFloat32;
  }

  static constexpr size_t kActivationBytes = size_t{kMaxTokens} * 2 * 12288 * 2;

  std::vector<kernels::cuda::LinearParams>& params() { return params_; }
  size_t weight_bytes() const { return used_; }

 private:
  static void AddsToResidual(kernels::cuda::LinearParams& params) {
    params.epilogue = kernels::cuda::LinearEpilogue::kAccumulate;
    params.y_dtype = kernels::DType::kFloat32;
  }

  void Add(char* x, int64_t x_stride, int outputs, int inputs, char* y, int tokens) {
    kernels::cuda::LinearParams params;
    params.x = reinterpret_cast<__nv_bfloat16*>(x);
    params.x_stride = x_stride;
    params.weight = reinterpret_cast<__nv_bfloat16*>(weights_ + used_);
    params.y = y;
    params.tokens = tokens;
    params.num_outputs = outputs;
    params.num_inputs = inputs;
    used_ += sizeof(__nv_bfloat16) * static_cast<size_t>(outputs) * inputs;
    params_.push_back(params);
  }

  char* weights_;
  size_t used_ = 0;
  std::vector<kernels::cuda::LinearParams> params_;
};

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_LINEAR_STEP_H_
