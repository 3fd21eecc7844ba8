#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "Sample";

void CheckNumbers(const SamplingRow& row) {
  // Written so that NaN fails.
  Check(row.temperature >= 0.0f && std::isfinite(row.temperature), kOp, "temperature",
        "finite and non-negative", row.temperature);
  Check(row.top_k >= 0, kOp, "top_k", "non-negative", row.top_k);
  Check(row.top_p > 0.0f && row.top_p <= 1.0f, kOp, "top_p", "in (0, 1]", row.top_p);
  Check(row.min_p >= 0.0f && row.min_p <= 1.0f, kOp, "min_p", "in [0, 1]", row.min_p);
  Check(row.repetition_penalty > 0.0f && std::isfinite(row.repetition_penalty), kOp,
        "repetition_penalty", "finite and positive", row.repetition_penalty);
  Check(std::isfinite(row.presence_penalty), kOp, "presence_penalty", "finite",
        row.presence_penalty);
  Check(std::isfinite(row.frequency_penalty), kOp, "frequency_penalty", "finite",
        row.frequency_penalty);
  Check(row.num_top_logprobs >= 0 && row.num_top_logprobs <= kMaxTopLogprobs, kOp,
        "num_top_logprobs", "in [0, " + std::to_string(kMaxTopLogprobs) + "]",
        row.num_top_logprobs);
}

void CheckToken(const char* operand, int32_t token, int64_t vocab_size) {
  if (token >= 0 && token < vocab_size) return;
  ThrowKernelError(
      kOp, operand,
      "must name tokens below " + std::to_string(vocab_size) + ", one is " + std::to_string(token));
}

void CheckTokens(const SamplingRow& row, int64_t vocab_size, int64_t token_limit) {
  for (const LogitBias& entry : row.logit_bias) {
    CheckToken("logit_bias", entry.token, vocab_size);
    Check(std::isfinite(entry.bias), kOp, "logit_bias", "finite", entry.bias);
  }
  for (const TokenCount& entry : row.token_counts) {
    CheckToken("token_counts", entry.token, vocab_size);
  }
  for (int32_t token : row.banned_ids) CheckToken("banned_ids", token, vocab_size);
  const int64_t mask_bits = static_cast<int64_t>(row.allowed_mask.size()) * 32;
  if (mask_bits != 0 && mask_bits < std::min(vocab_size, token_limit)) {
    ThrowKernelError(kOp, "allowed_mask",
                     "must cover " + std::to_string(std::min(vocab_size, token_limit)) +
                         " tokens, covers " + std::to_string(mask_bits));
  }
}

}  // namespace

size_t SampleWorkspaceBytes(int64_t vocab_size, const Stream& stream) {
  CheckAtLeast(kOp, "vocab_size", vocab_size, 1);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::SampleWorkspaceBytes(vocab_size, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
  return 0;
}

void Sample(const SampleParams& params, const Stream& stream) {
  const int64_t rows = static_cast<int64_t>(params.rows.size());
  CheckTensor(kOp, "logits", params.logits, DType::kFloat32, {rows, kAnyExtent}, stream);
  if (rows == 0) return;
  const int64_t vocab_size = params.logits.shape[1];
  CheckAtLeast(kOp, "token_limit", params.token_limit, 1);
  CheckAtLeast(kOp, "results", static_cast<int64_t>(params.results.size()), rows);
  CheckAtLeast(kOp, "workspace bytes", static_cast<int64_t>(params.workspace.size()),
               static_cast<int64_t>(SampleWorkspaceBytes(vocab_size, stream)));
  for (const SamplingRow& row : params.rows) {
    CheckNumbers(row);
    CheckTokens(row, vocab_size, params.token_limit);
  }
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Sample(params, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
