// Making a ModelRunner from what an operator configures: a model folder and its limits.
//
// Thread safety: pure function. Loading takes as long as reading the weights once.
// Errors name the file and the tensor or field, or the option to change:
//   NOT_FOUND           no such folder, no config.json, no weights, a missing tensor
//   INVALID_ARGUMENT    a malformed or unsupported checkpoint, an option out of range
//   RESOURCE_EXHAUSTED  the model or one sequence of its KV pages does not fit the budget
#ifndef PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_FACTORY_H_
#define PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_FACTORY_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/models/model_config.h"
#include "engine/runner/model_runner.h"
#include "kernels/dtype.h"

namespace parallax {

enum class LoadFormat {
  kSafetensors,
  kDummy,  // random weights of config.json's shape: benchmarks without a checkpoint
};

enum class RunnerDevice {
  kAuto,  // a GPU if there is one that the build can use
  kCpu,
  kCuda,
};

struct ModelRunnerOptions {
  /// A Hugging Face model folder, or "null" for NullModelRunner.
  std::string model;
  /// NullModelRunner's: how long a step takes.
  std::chrono::nanoseconds null_step_time{0};
  LoadFormat load_format = LoadFormat::kSafetensors;

  RunnerDevice device = RunnerDevice::kAuto;
  kernels::DType kv_cache_dtype = kernels::DType::kBFloat16;
  /// Threads of the CPU backend; 0 = one a hardware thread.
  int32_t num_threads = 0;
  /// Longest sequence, prompt plus output; 0 = the checkpoint's max_position_embeddings.
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 64;
  int32_t max_num_batched_tokens = 512;
  /// KV pages; 0 = whatever the memory budget leaves, up to what max_num_seqs can use.
  int32_t num_kv_pages = 0;
  /// For weights, activations, probe states and KV pages; 0 = 70 % of what is available on the
  /// CPU, gpu_memory_utilization of all of a GPU's memory less what others hold.
  int64_t memory_budget_bytes = 0;
  double gpu_memory_utilization = 0.9;
  /// See CudaModelRunnerOptions.
  std::string gpu_plan_file;
  /// Token ids from here on are never sampled (the tokenizer's size); 0 = vocab_size.
  int32_t token_limit = 0;
  /// Bit i % 32 of word i / 32 allows id i to be sampled: for tokenizers with holes. Empty = all.
  std::vector<uint32_t> token_mask;
  /// Stop tokens of the model, not sampled before a request's min_tokens. Added to those that
  /// config.json and generation_config.json name.
  std::vector<int32_t> eos_token_ids;
};

/// What the model folder says, beside its weights; for the server's defaults.
struct ModelFolder {
  ModelConfig config;
  GenerationDefaults generation;  // all unset without a generation_config.json
  /// generation_config.json's, or config.json's when that names none.
  std::vector<int32_t> eos_token_ids;
};
absl::StatusOr<ModelFolder> ReadModelFolder(const std::string& folder);

/// Reads options.model first.
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateModelRunner(const ModelRunnerOptions& options);
/// `folder`: what ReadModelFolder made of options.model, which is not "null".
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateModelRunner(const ModelRunnerOptions& options,
                                                               const ModelFolder& folder);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_FACTORY_H_
