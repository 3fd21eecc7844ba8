#include "engine/cuda/gpu_model_check.h"

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

// Rows are read 16 bytes at a time.
constexpr int64_t kVectorElements = 8;

absl::Status NotServed(const char* field, int64_t value, absl::string_view demand) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": must be ", demand, " on a GPU; use the CPU"));
}

}  // namespace

absl::Status CheckGpuServes(const ModelConfig& config) {
  if (config.head_dim != 64 && config.head_dim != 128) {
    return NotServed("head_dim", config.head_dim, "64 or 128");
  }
  if (config.num_heads > kMaxGpuQueryHeadsPerKvHead * config.num_kv_heads) {
    return NotServed("num_attention_heads", config.num_heads,
                     absl::StrCat("at most ", kMaxGpuQueryHeadsPerKvHead,
                                  " times num_key_value_heads, ", config.num_kv_heads, ","));
  }
  const struct {
    const char* field;
    int64_t value;
  } rows[] = {{"vocab_size", config.vocab_size},
              {"hidden_size", config.hidden_size},
              {"intermediate_size", config.intermediate_size}};
  for (const auto& [field, value] : rows) {
    if (value % kVectorElements != 0) {
      return NotServed(field, value, absl::StrCat("a multiple of ", kVectorElements));
    }
  }
  if (config.hidden_size > kMaxGpuHiddenSize) {
    return NotServed("hidden_size", config.hidden_size,
                     absl::StrCat("at most ", kMaxGpuHiddenSize));
  }
  if (config.vocab_size > kMaxGpuVocabulary) {
    return NotServed("vocab_size", config.vocab_size, absl::StrCat("at most ", kMaxGpuVocabulary));
  }
  return absl::OkStatus();
}

}  // namespace parallax
