#include "engine/runner/model_runner_factory.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/read_file.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/models/tensor_source.h"
#include "engine/models/weights.h"
#include "engine/runner/cpu_model_runner.h"
#include "engine/runner/memory_plan.h"
#include "engine/runner/null_model_runner.h"
#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"

namespace parallax {

namespace {

constexpr double kDefaultMemoryShare = 0.7;
constexpr uintmax_t kMaxConfigBytes = 16 << 20;
constexpr uint64_t kDummySeed = 0;

// The ids come from the caller and from the folder: the ops would refuse a step that holds one
// without a row, long after the start.
absl::Status CheckEosIds(const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("eos_token_ids: ", id, " is outside the vocabulary [0, ", vocab_size, ")"));
  }
  return absl::OkStatus();
}

absl::Status InFolder(const absl::Status& status, const std::string& folder) {
  return absl::Status(status.code(), absl::StrCat(folder, ": ", std::string(status.message())));
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenSource(const ModelRunnerOptions& options,
                                                         int64_t budget_bytes) {
  if (options.load_format == LoadFormat::kDummy) {
    return std::make_unique<DummyTensorSource>(kDummySeed, kernels::DType::kBFloat16);
  }
  absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> checkpoint =
      SafetensorsCheckpoint::Open(options.model);
  if (!checkpoint.ok()) return checkpoint.status();
  int64_t bytes = 0;
  for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
    bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  if (options.num_kv_pages == 0 && bytes > budget_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        options.model, ": its weights take ", bytes >> 20, " MiB, more than the memory budget of ",
        budget_bytes >> 20, " MiB: raise the budget or choose a smaller model"));
  }
  return std::make_unique<CheckpointTensorSource>(*std::move(checkpoint));
}

// The longest sequence to serve, from the option and the checkpoint's own limit.
absl::StatusOr<int32_t> MaxContextTokens(const ModelRunnerOptions& options,
                                         const ModelConfig& config) {
  const int64_t limit = config.max_position_embeddings;
  if (options.max_model_len > kMostContextTokens || options.num_kv_pages > kMostPages) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_model_len = ", options.max_model_len, ", num_kv_pages = ", options.num_kv_pages,
        ": at most ", kMostContextTokens, " and ", kMostPages, " can be served"));
  }
  if (options.max_model_len < 0 || (limit > 0 && options.max_model_len > limit)) {
    return absl::InvalidArgumentError(absl::StrCat("max_model_len = ", options.max_model_len,
                                                   ": the checkpoint's max_position_embeddings is ",
                                                   limit));
  }
  if (options.max_model_len > 0) return options.max_model_len;
  if (limit > 0) return static_cast<int32_t>(limit);
  return absl::InvalidArgumentError(
      "max_model_len must be set: config.json states no max_position_embeddings");
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateNullRunner(const ModelRunnerOptions& options) {
  NullModelRunnerOptions null_options;
  if (options.max_model_len > 0) null_options.max_context_tokens = options.max_model_len;
  if (options.num_kv_pages > 0) null_options.num_pages = options.num_kv_pages;
  null_options.max_num_seqs = options.max_num_seqs;
  null_options.max_num_batched_tokens = options.max_num_batched_tokens;
  null_options.step_time = options.null_step_time;
  auto runner = NullModelRunner::Create(null_options);
  if (!runner.ok()) return runner.status();
  return std::unique_ptr<ModelRunner>(*std::move(runner));
}

// What both backends take alike.
template <typename RunnerOptions>
RunnerOptions CommonOptions(const ModelRunnerOptions& options, const ModelFolder& folder,
                            int32_t max_context_tokens) {
  RunnerOptions runner;
  std::error_code error;  // of a folder that was read a moment ago: then its name as given
  const auto path = std::filesystem::weakly_canonical(options.model, error);
  runner.name = (error ? std::filesystem::path(options.model) : path).filename().string();
  runner.max_context_tokens = max_context_tokens;
  runner.max_num_seqs = options.max_num_seqs;
  runner.max_num_batched_tokens = options.max_num_batched_tokens;
  runner.num_pages = options.num_kv_pages;
  runner.token_limit = options.token_limit > 0 ? options.token_limit
                                               : static_cast<int32_t>(folder.config.vocab_size);
  runner.token_mask = options.token_mask;
  runner.eos_token_ids = folder.eos_token_ids;
  runner.eos_token_ids.insert(runner.eos_token_ids.end(), options.eos_token_ids.begin(),
                              options.eos_token_ids.end());
  return runner;
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateOnGpu(const ModelRunnerOptions& options,
                                                         const ModelFolder& folder,
                                                         int32_t max_context_tokens) {
  if (options.kv_cache_dtype != kernels::DType::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_dtype = ", std::string(kernels::DTypeName(options.kv_cache_dtype)),
                     ": a GPU keeps keys and values in bfloat16"));
  }
  const auto source = OpenSource(options, std::numeric_limits<int64_t>::max());
  if (!source.ok()) return source.status();
  auto runner = CommonOptions<CudaModelRunnerOptions>(options, folder, max_context_tokens);
  runner.memory_budget_bytes = options.memory_budget_bytes;
  runner.memory_utilization = options.gpu_memory_utilization;
  runner.plan_file = options.gpu_plan_file;
  auto created = CreateCudaModelRunner(folder.config, **source, runner);
  if (!created.ok()) return InFolder(created.status(), options.model);
  return created;
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateOnCpu(const ModelRunnerOptions& options,
                                                         const ModelFolder& folder,
                                                         int32_t max_context_tokens) {
  const int64_t budget_bytes =
      options.memory_budget_bytes > 0
          ? options.memory_budget_bytes
          : static_cast<int64_t>(kDefaultMemoryShare * static_cast<double>(AvailableMemoryBytes()));
  const auto source = OpenSource(options, budget_bytes);
  if (!source.ok()) return source.status();
  const int threads = options.num_threads > 0
                          ? options.num_threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  auto pool = std::make_unique<kernels::ThreadPool>(threads);
  auto weights = LoadDecoderWeights(folder.config, **source, ShardSpec{}, kernels::Stream(*pool));
  if (!weights.ok()) return InFolder(weights.status(), options.model);
  auto runner_options = CommonOptions<CpuModelRunnerOptions>(options, folder, max_context_tokens);
  runner_options.kv_cache_dtype = options.kv_cache_dtype;
  runner_options.memory_budget_bytes = budget_bytes;
  auto runner =
      CpuModelRunner::Create(folder.config, *std::move(weights), runner_options, std::move(pool));
  if (!runner.ok()) return runner.status();
  return std::unique_ptr<ModelRunner>(*std::move(runner));
}

}  // namespace

absl::StatusOr<ModelFolder> ReadModelFolder(const std::string& folder) {
  const absl::StatusOr<std::string> config_text =
      ReadWholeFile(folder + "/config.json", kMaxConfigBytes);
  if (!config_text.ok()) return config_text.status();
  absl::StatusOr<ModelConfig> config = ParseModelConfig(*config_text);
  if (!config.ok()) return InFolder(config.status(), folder);
  ModelFolder result;
  result.config = *std::move(config);

  const std::string generation_path = folder + "/generation_config.json";
  std::error_code error;
  const bool has_generation = std::filesystem::exists(generation_path, error);
  if (error) return absl::NotFoundError(absl::StrCat(generation_path, ": ", error.message()));
  if (has_generation) {
    const absl::StatusOr<std::string> text = ReadWholeFile(generation_path, kMaxConfigBytes);
    if (!text.ok()) return text.status();
    absl::StatusOr<GenerationDefaults> generation =
        ParseGenerationDefaults(*text, result.config.vocab_size);
    if (!generation.ok()) return InFolder(generation.status(), folder);
    result.generation = *std::move(generation);
  }
  result.eos_token_ids = result.generation.eos_token_ids.empty() ? result.config.eos_token_ids
                                                                 : result.generation.eos_token_ids;
  return result;
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateModelRunner(const ModelRunnerOptions& options) {
  if (options.model == "null") return CreateNullRunner(options);
  const absl::StatusOr<ModelFolder> folder = ReadModelFolder(options.model);
  return folder.ok() ? CreateModelRunner(options, *folder) : folder.status();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateModelRunner(const ModelRunnerOptions& options,
                                                               const ModelFolder& folder) {
  if (absl::Status s = CheckEosIds(options.eos_token_ids, folder.config.vocab_size); !s.ok()) {
    return s;
  }
  const absl::StatusOr<int32_t> max_context_tokens = MaxContextTokens(options, folder.config);
  if (!max_context_tokens.ok()) return max_context_tokens.status();
  const bool on_gpu = options.device == RunnerDevice::kCuda ||
                      (options.device == RunnerDevice::kAuto && CudaBackendUsable());
  return on_gpu ? CreateOnGpu(options, folder, *max_context_tokens)
                : CreateOnCpu(options, folder, *max_context_tokens);
}

}  // namespace parallax
