#include "server/model_loading.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kv_cache/kv_cache_pool.h"
#include "engine/runner/model_runner_factory.h"
#include "engine/tokenizer/vocabulary_fit.h"
#include "kernels/dtype.h"

namespace parallax::server {
namespace {

// Some 5 MB: a million tokens that came or went are remembered for a gateway that reconnects.
constexpr size_t kKvEvents = 16384;

kernels::DType KvCacheDtype(const std::string& name) {
  if (name == "fp16") return kernels::DType::kFloat16;
  if (name == "fp32") return kernels::DType::kFloat32;
  return kernels::DType::kBFloat16;
}

RunnerDevice DeviceOf(const std::string& name) {
  if (name == "cpu") return RunnerDevice::kCpu;
  if (name == "cuda") return RunnerDevice::kCuda;
  return RunnerDevice::kAuto;
}

ModelRunnerOptions RunnerOptions(const ServerConfig& config) {
  ModelRunnerOptions options;
  options.model = config.model;
  options.null_step_time = absl::ToChronoNanoseconds(config.null_step_time);
  options.load_format =
      config.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kSafetensors;
  options.device = DeviceOf(config.device);
  options.gpu_memory_utilization = config.gpu_memory_percent / 100.0;
  options.gpu_plan_file = config.gpu_plan_file;
  options.kv_cache_dtype = KvCacheDtype(config.kv_cache_dtype);
  options.num_threads = config.threads;
  options.max_model_len = config.max_context_tokens;
  options.max_num_seqs = config.max_num_seqs;
  options.max_num_batched_tokens = config.max_num_batched_tokens;
  options.num_kv_pages = config.kv_cache_pages;
  options.memory_budget_bytes = config.memory_bytes;
  return options;
}

absl::StatusOr<int32_t> PagesOf(int64_t bytes, const ModelConfig& model,
                                const ModelRunnerOptions& options) {
  const KvCacheGeometry geometry{
      .num_layers = static_cast<int32_t>(model.num_layers),
      .num_kv_heads = static_cast<int32_t>(model.num_kv_heads),
      .head_dim = static_cast<int32_t>(model.head_dim),
      .element_bytes = static_cast<int32_t>(kernels::DTypeSize(options.kv_cache_dtype))};
  const int32_t context = options.max_model_len > 0
                              ? options.max_model_len
                              : static_cast<int32_t>(model.max_position_embeddings);
  auto pages = PagesForBudget(geometry, bytes, context);
  if (pages.ok()) return pages;
  return absl::Status(pages.status().code(),
                      absl::StrCat("--kv-cache-bytes: ", pages.status().message()));
}

void ApplyDefaults(const GenerationDefaults& defaults, SamplingParams* params) {
  params->temperature = defaults.temperature.value_or(params->temperature);
  params->top_k = defaults.top_k.value_or(params->top_k);
  params->top_p = defaults.top_p.value_or(params->top_p);
  params->min_p = defaults.min_p.value_or(params->min_p);
  params->repetition_penalty = defaults.repetition_penalty.value_or(params->repetition_penalty);
}

void AddUnique(std::optional<int32_t> id, std::vector<int32_t>* ids) {
  if (!id.has_value() || std::find(ids->begin(), ids->end(), *id) != ids->end()) return;
  ids->push_back(*id);
}

absl::Status LoadTokenizerInto(const std::string& folder, int64_t vocab_size, LoadedModel* loaded) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(folder);
  if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
  if (!tokenizer.ok()) return tokenizer.status();
  if (absl::Status s = CheckSpecialIds(**tokenizer, vocab_size); !s.ok()) {
    return absl::Status(s.code(), absl::StrCat(TokenizerFile(folder).string(), ": ", s.message()));
  }
  loaded->tokenizer = *std::move(tokenizer);
  loaded->served.tokenizer = loaded->tokenizer.get();
  absl::StatusOr<std::unique_ptr<TokenizerArchive>> archive = TokenizerArchive::FromFolder(folder);
  if (!archive.ok()) return archive.status();
  loaded->served.tokenizer_archive = *std::move(archive);
  return absl::OkStatus();
}

// What the folder says: tokenizer, sampling defaults, special ids.
absl::Status ApplyFolder(const ServerConfig& config, const ModelFolder& folder,
                         ModelRunnerOptions* options, LoadedModel* loaded) {
  const int64_t vocab_size = folder.config.vocab_size;
  if (absl::Status s = LoadTokenizerInto(config.model, vocab_size, loaded); !s.ok()) return s;
  ServedModel& served = loaded->served;
  ApplyDefaults(folder.generation, &served.default_sampling);
  served.eos_token_ids = folder.eos_token_ids;
  served.bos_token_id = folder.generation.bos_token_id.has_value() ? folder.generation.bos_token_id
                                                                   : folder.config.bos_token_id;
  if (loaded->tokenizer != nullptr) {
    AddUnique(loaded->tokenizer->eos_id(), &served.eos_token_ids);
    if (loaded->tokenizer->bos_id().has_value()) served.bos_token_id = loaded->tokenizer->bos_id();
    options->token_limit =
        static_cast<int32_t>(std::min<int64_t>(loaded->tokenizer->VocabSize(), vocab_size));
    options->token_mask = SampleableIds(*loaded->tokenizer, options->token_limit);
  }
  options->eos_token_ids = served.eos_token_ids;
  if (config.kv_cache_bytes == 0) return absl::OkStatus();
  const absl::StatusOr<int32_t> pages = PagesOf(config.kv_cache_bytes, folder.config, *options);
  if (!pages.ok()) return pages.status();
  options->num_kv_pages = *pages;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> LoadFolder(const ServerConfig& config,
                                                        ModelRunnerOptions options,
                                                        LoadedModel* loaded) {
  const absl::StatusOr<ModelFolder> folder = ReadModelFolder(config.model);
  if (!folder.ok()) return folder.status();
  if (absl::Status s = ApplyFolder(config, *folder, &options, loaded); !s.ok()) return s;
  return CreateModelRunner(options, *folder);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const ServerConfig& config) {
  LoadedModel loaded;
  const ModelRunnerOptions options = RunnerOptions(config);
  if (config.model == "null" && config.device == "cuda") {
    return absl::InvalidArgumentError("--device: cuda: the null model runs on no device");
  }
  absl::StatusOr<std::unique_ptr<ModelRunner>> runner =
      config.model == "null" ? CreateModelRunner(options) : LoadFolder(config, options, &loaded);
  if (!runner.ok()) return runner.status();
  loaded.runner = *std::move(runner);
  loaded.served.name = config.model_name;
  if (config.kv_events) loaded.served.kv_events = std::make_shared<KvEventLog>(kKvEvents);
  loaded.served.vocab_size = loaded.runner->limits().vocab_size;
  loaded.served.max_context_tokens = loaded.runner->limits().max_context_tokens;
  return loaded;
}

EngineOptions MakeEngineOptions(const ServerConfig& config, const ServedModel& model) {
  EngineOptions options;
  options.max_queued_requests = config.max_queued_requests;
  options.max_queued_tokens = config.max_queued_tokens;
  options.max_num_batched_tokens = config.max_num_batched_tokens;
  options.max_num_seqs = config.max_num_seqs;
  options.max_prefill_chunk = config.max_prefill_chunk;
  options.max_mixed_prefill_tokens = config.max_mixed_prefill_tokens;
  options.enable_prefix_cache = config.prefix_cache;
  options.prefix_cache_observer = model.kv_events.get();
  options.eos_token_ids = model.eos_token_ids;
  return options;
}

absl::StatusOr<RequestLimits> MakeRequestLimits(const ServerConfig& config,
                                                const ServedModel& model) {
  const int32_t longest = model.max_context_tokens - 1;
  if (config.max_prompt_tokens > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-prompt-tokens: ", config.max_prompt_tokens,
                     " is more than the model's context leaves, ", longest));
  }
  return RequestLimits{
      .max_prompt_tokens = config.max_prompt_tokens > 0 ? config.max_prompt_tokens : longest,
      .max_choices = config.max_choices,
      .max_response_bytes = static_cast<size_t>(config.max_response_bytes),
      .max_concurrent_streams = config.max_concurrent_streams};
}

}  // namespace parallax::server
