#include "engine/runner/cpu_model_runner.h"

#include <algorithm>
#include <new>
#include <span>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/runner/batch_validation.h"
#include "engine/runner/memory_plan.h"
#include "kernels/check.h"
#include "kernels/parallax_attention.h"

namespace parallax {

using kernels::DType;
using kernels::KvCacheView;
using kernels::TensorView;

namespace {

// Prompt logprobs are computed in blocks of this many rows and vocabulary columns, so that
// their logits take 8 MiB whatever the prompt and the vocabulary.
constexpr int32_t kLogprobRows = 256;
constexpr int64_t kLogprobColumns = 8192;
static_assert(kLogprobColumns % kernels::kPanelWidth == 0);
static_assert(SamplingParams::kMaxLogprobs <= kernels::kMaxTopLogprobs);
static_assert(kPageTokens == kernels::kPageSize);

// The window beyond which no layer looks; 0 as soon as one layer sees everything.
int32_t WidestWindow(const std::vector<int32_t>& layer_windows) {
  const auto [least, most] = std::minmax_element(layer_windows.begin(), layer_windows.end());
  return *least == 0 ? 0 : *most;
}

absl::Status CheckPositive(const char* option, int64_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, " = ", value, ": must be positive"));
}

absl::Status CheckOptions(const ModelConfig& config, const CpuModelRunnerOptions& options) {
  for (const auto& [option, value] : {std::pair{"max_context_tokens", options.max_context_tokens},
                                      {"max_num_seqs", options.max_num_seqs},
                                      {"max_num_batched_tokens", options.max_num_batched_tokens},
                                      {"token_limit", options.token_limit}}) {
    if (auto status = CheckPositive(option, value); !status.ok()) return status;
  }
  if (options.token_limit > config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("token_limit = ", options.token_limit,
                                                   " exceeds vocab_size ", config.vocab_size));
  }
  const auto mask_bits = static_cast<int64_t>(options.token_mask.size()) * 32;
  if (mask_bits > 0 && mask_bits < options.token_limit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token_mask has ", mask_bits, " bits, fewer than token_limit ", options.token_limit));
  }
  return absl::OkStatus();
}

// Appends the alternatives of one row to the result; returns where they begin.
int32_t AppendTop(std::span<const kernels::TokenLogprob> top, StepResult& result) {
  const auto begin = static_cast<int32_t>(result.top_ids.size());
  for (const kernels::TokenLogprob& entry : top) {
    result.top_ids.push_back(entry.token);
    result.top_logprobs.push_back(entry.logprob);
  }
  return begin;
}

}  // namespace

CpuModelRunner::CpuModelRunner(const ModelConfig& config,
                               std::unique_ptr<const DecoderWeights> weights,
                               const CpuModelRunnerOptions& options,
                               std::unique_ptr<kernels::ThreadPool> pool)
    : config_(config),
      options_(options),
      pool_(std::move(pool)),
      stream_(*pool_),
      weights_(std::move(weights)) {}

absl::StatusOr<std::unique_ptr<CpuModelRunner>> CpuModelRunner::Create(
    const ModelConfig& config, std::unique_ptr<const DecoderWeights> weights,
    const CpuModelRunnerOptions& options, std::unique_ptr<kernels::ThreadPool> pool) {
  if (auto status = CheckOptions(config, options); !status.ok()) return status;
  if (auto status = Decoder::CheckSupported(config); !status.ok()) return status;
  std::unique_ptr<CpuModelRunner> runner(
      new CpuModelRunner(config, std::move(weights), options, std::move(pool)));
  try {
    if (auto status = runner->Allocate(); !status.ok()) return status;
  } catch (const kernels::KernelError& error) {
    return absl::InternalError(error.what());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while preparing the CPU backend");
  }
  runner->Describe();
  return runner;
}

absl::Status CpuModelRunner::Allocate() {
  const DecoderOptions decoder_options = {.max_num_batched_tokens = options_.max_num_batched_tokens,
                                          .max_context_tokens = options_.max_context_tokens,
                                          .max_logits_rows = options_.max_num_seqs};
  const DecoderMemory memory = Decoder::MemoryFor(config_, decoder_options, stream_);
  const size_t logits_bytes = sizeof(float) * options_.max_num_seqs * config_.vocab_size;
  const size_t slice_bytes = sizeof(float) * kLogprobRows * kLogprobColumns;
  const size_t sample_bytes = kernels::SampleWorkspaceBytes(config_.vocab_size, stream_);
  const size_t most_counted = MostCounted(options_.max_context_tokens);
  const size_t count_bytes = TokenCounter::BytesFor(most_counted) * options_.max_num_seqs;

  KvCacheView layout;
  layout.dtype = options_.kv_cache_dtype;
  layout.num_kv_heads = static_cast<int>(config_.num_kv_heads);
  layout.head_dim = static_cast<int>(config_.head_dim);
  limits_.page_bytes = static_cast<int64_t>(layout.page_bytes()) * config_.num_layers;
  const absl::StatusOr<int32_t> num_pages = PlanKvPages({
      .budget_bytes = options_.memory_budget_bytes,
      .num_pages = options_.num_pages,
      .weight_bytes = weights_->weight_bytes,
      .activation_bytes =
          memory.activations + memory.rope_table +
          static_cast<int64_t>(logits_bytes + slice_bytes + sample_bytes + count_bytes),
      .probe_state_bytes = memory.probe_states,
      .page_bytes = limits_.page_bytes,
      .max_context_tokens = options_.max_context_tokens,
      .max_num_seqs = options_.max_num_seqs,
  });
  if (!num_pages.ok()) return num_pages.status();
  limits_.num_pages = layout.num_pages = *num_pages;
  limits_.probe_state_bytes = memory.probe_states;

  auto decoder = Decoder::Create(config_, *weights_, decoder_options, communicator_, stream_);
  if (!decoder.ok()) return decoder.status();
  decoder_ = *std::move(decoder);
  for (const auto& [buffer, bytes, purpose] : {std::tuple{&logits_, logits_bytes, "logits"},
                                               {&logits_slice_, slice_bytes, "prompt logits"},
                                               {&sample_workspace_, sample_bytes, "the sampler"}}) {
    absl::StatusOr<HostBuffer> allocated = HostBuffer::Allocate(bytes, purpose);
    if (!allocated.ok()) return allocated.status();
    *buffer = *std::move(allocated);
  }
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    absl::StatusOr<HostBuffer> pages =
        HostBuffer::Allocate(layout.page_bytes() * limits_.num_pages, "KV pages");
    if (!pages.ok()) return pages.status();
    layout.data = pages->data();
    pages_.push_back(*std::move(pages));
    caches_.push_back(layout);
  }
  slots_.resize(options_.max_num_seqs);
  for (Slot& slot : slots_) slot.counter.Reserve(most_counted);
  logprob_states_.resize(kLogprobRows);
  return absl::OkStatus();
}

// Different tokens that a sequence of this many can have.
size_t CpuModelRunner::MostCounted(size_t tokens) const {
  return std::min(tokens, static_cast<size_t>(config_.vocab_size));
}

void CpuModelRunner::Describe() {
  limits_.vocab_size = static_cast<int32_t>(config_.vocab_size);
  limits_.max_context_tokens = options_.max_context_tokens;
  limits_.sliding_window = WidestWindow(config_.layer_windows);
  limits_.max_num_seqs = options_.max_num_seqs;
  limits_.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits_.max_steps_in_flight = 1;

  description_.name = options_.name;
  description_.architecture = config_.architecture;
  description_.weight_dtype = weights_->dtype;
  description_.kv_dtype = std::string(kernels::DTypeName(options_.kv_cache_dtype));
  description_.device = absl::StrCat("cpu (", pool_->size(), " threads)");
  description_.num_parameters = weights_->num_parameters;
  description_.weight_bytes = weights_->weight_bytes;
  description_.num_layers = static_cast<int32_t>(config_.num_layers);
  description_.num_heads = static_cast<int32_t>(config_.num_heads);
  description_.num_kv_heads = static_cast<int32_t>(config_.num_kv_heads);
  description_.head_dim = static_cast<int32_t>(config_.head_dim);
  description_.hidden_size = static_cast<int32_t>(config_.hidden_size);
  description_.probe = config_.has_probe;
}

absl::Status CpuModelRunner::Launch(const ForwardBatch& batch) {
  if (launched_ != collected_) {
    return absl::FailedPreconditionError("Launch before the step in flight was collected");
  }
  if (auto status = ValidateBatch(batch, limits_); !status.ok()) return status;
  StepResult& result = results_[launched_ % results_.size()];
  result.Clear();
  result.step_id = batch.step_id;
  try {
    UpdateSlots(batch);
    CopyPages(batch);
    if (batch.num_tokens() > 0) {
      ResolveTokens(batch);
      decoder_->Forward(batch, token_ids_, caches_);
      probe_state_bytes_used_ = ProbeStateBytes(batch);
      ScorePrompts(batch, result);
      SampleTokens(batch, result);
    }
  } catch (const kernels::OutOfMemoryError& error) {
    return absl::InternalError(absl::StrCat("step ", batch.step_id, ": ", error.what()));
  } catch (const kernels::KernelError& error) {
    // Ops throw from their checks, before they touch anything but the step's own K/V positions.
    return absl::InvalidArgumentError(absl::StrCat("step ", batch.step_id, ": ", error.what()));
  } catch (const std::bad_alloc&) {
    return absl::InternalError(absl::StrCat("step ", batch.step_id, ": out of memory"));
  }
  ++launched_;
  return absl::OkStatus();
}

absl::StatusOr<const StepResult*> CpuModelRunner::Collect() {
  if (launched_ == collected_) return absl::FailedPreconditionError("no step is in flight");
  return &results_[collected_++ % results_.size()];
}

void CpuModelRunner::UpdateSlots(const ForwardBatch& batch) {
  for (const int32_t index : batch.detached_slots) {
    slots_[index].params = nullptr;
    slots_[index].last_token = kTokenFromSlot;
  }
  for (const SlotAttach& attach : batch.attached_slots) Attach(attach);
}

void CpuModelRunner::Attach(const SlotAttach& attach) {
  Slot& slot = slots_[attach.slot];
  const SamplingParams& params = *attach.params;
  slot.params = &params;
  slot.choice_index = attach.choice_index;
  slot.last_token = attach.generated.empty() ? kTokenFromSlot : attach.generated.back();
  slot.counts_tokens = params.HasPenalties();
  if (slot.counts_tokens) {
    slot.counter.Reset(attach.prompt, attach.generated,
                       MostCounted(attach.prompt.size() + static_cast<size_t>(params.max_tokens)));
  } else {
    slot.counter.Clear();
  }
  slot.logit_bias.clear();
  for (const auto& [token, bias] : params.logit_bias) slot.logit_bias.push_back({token, bias});
  slot.banned_until_min_tokens.clear();
  if (params.min_tokens > 0) {
    slot.banned_until_min_tokens = options_.eos_token_ids;
    slot.banned_until_min_tokens.insert(slot.banned_until_min_tokens.end(),
                                        params.stop_token_ids.begin(), params.stop_token_ids.end());
  }
}

void CpuModelRunner::CopyPages(const ForwardBatch& batch) {
  if (batch.page_copies.empty()) return;
  page_copies_.clear();
  for (const PageCopy& copy : batch.page_copies) page_copies_.push_back({copy.src, copy.dst});
  kernels::CopyKvPages(page_copies_, caches_, stream_);
}

void CpuModelRunner::ResolveTokens(const ForwardBatch& batch) {
  token_ids_ = batch.token_ids;
  for (int32_t s = 0; s < batch.num_sequences(); ++s) {
    for (int32_t row = batch.query_start[s]; row < batch.query_start[s + 1]; ++row) {
      if (token_ids_[row] == kTokenFromSlot) {
        token_ids_[row] = slots_[batch.sequence_slots[s]].last_token;
      }
    }
  }
}

// What it takes to split every decode row longer than one split. The op splits fewer when the
// batch alone keeps all threads busy: a bound, close when long sequences run by themselves.
int64_t CpuModelRunner::ProbeStateBytes(const ForwardBatch& batch) const {
  const int64_t window =
      limits_.sliding_window > 0 ? limits_.sliding_window : limits_.max_context_tokens;
  const auto state_bytes = static_cast<int64_t>(sizeof(float)) * (3 + 2 * config_.head_dim);
  int64_t bytes = 0;
  for (int32_t s = 0; s < batch.num_sequences(); ++s) {
    const bool decode = batch.query_start[s + 1] - batch.query_start[s] == 1;
    const int64_t keys = std::min<int64_t>(batch.context_len[s], window);
    if (!decode || keys <= kernels::kKeysPerSplit) continue;
    const int64_t splits = (keys + kernels::kKeysPerSplit - 1) / kernels::kKeysPerSplit;
    bytes += splits * config_.num_heads * state_bytes;
  }
  return std::min(bytes, limits_.probe_state_bytes);
}

void CpuModelRunner::ScorePrompts(const ForwardBatch& batch, StepResult& result) {
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    for (int32_t begin = 0; begin < task.count; begin += kLogprobRows) {
      ScorePromptRows(task, begin, std::min(kLogprobRows, task.count - begin), batch, result);
    }
  }
}

void CpuModelRunner::ScorePromptRows(const PromptLogprobTask& task, int32_t begin, int32_t count,
                                     const ForwardBatch& batch, StepResult& result) {
  const std::span<kernels::LogprobState> states(logprob_states_.data(), count);
  for (int32_t i = 0; i < count; ++i) {
    states[i] = {};
    states[i].target = batch.prompt_targets[task.target_begin + begin + i];
    states[i].num_top = task.top_k;
  }
  for (int64_t column = 0; column < config_.vocab_size; column += kLogprobColumns) {
    const int64_t end = std::min(column + kLogprobColumns, config_.vocab_size);
    const TensorView logits(logits_slice_.data(), DType::kFloat32, {count, end - column});
    decoder_->LogitsSlice(task.first_row + begin, count, column, end, logits);
    kernels::AccumulateLogprobs(logits, column, options_.token_limit, states, stream_);
  }
  for (const kernels::LogprobState& state : states) {
    const kernels::LogprobResult scored = kernels::FinishLogprobs(state);
    const int32_t top_count = scored.has_nan ? 0 : scored.top_count;
    result.prompt_logprobs.push_back(
        {.logprob = scored.target_logprob,
         .top_begin = AppendTop({scored.top.data(), static_cast<size_t>(top_count)}, result),
         .top_count = top_count,
         .nan_logits = scored.has_nan});
  }
}

kernels::SamplingRow CpuModelRunner::SamplingRowFor(const Slot& slot,
                                                    const SampleTask& task) const {
  const SamplingParams& params = *slot.params;
  kernels::SamplingRow row;
  row.temperature = params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.logit_bias = slot.logit_bias;
  if (slot.counts_tokens) row.token_counts = slot.counter.counts();
  if (task.output_position < params.min_tokens) row.banned_ids = slot.banned_until_min_tokens;
  row.allowed_mask = options_.token_mask;
  row.seed = params.seed;
  row.choice_index = static_cast<uint32_t>(slot.choice_index);
  row.position = static_cast<uint32_t>(task.output_position);
  row.num_top_logprobs = params.logprobs.value_or(0);
  return row;
}

// The sampler overwrites its logits, so tasks that share a row (n choices of one prompt) each
// get their own: projecting a few rows more on that one step is cheaper than copying logits.
void CpuModelRunner::SampleTokens(const ForwardBatch& batch, StepResult& result) {
  if (batch.samples.empty()) return;
  sample_rows_.clear();
  sampling_rows_.clear();
  for (const SampleTask& task : batch.samples) {
    kernels::Check(slots_[task.slot].params != nullptr, "CpuModelRunner", "sampling slot",
                   "attached", task.slot);
    sample_rows_.push_back(batch.logits_rows[task.logits_index]);
    sampling_rows_.push_back(SamplingRowFor(slots_[task.slot], task));
  }
  sample_results_.resize(batch.samples.size());
  const TensorView logits(logits_.data(), DType::kFloat32,
                          {static_cast<int64_t>(sample_rows_.size()), config_.vocab_size});
  decoder_->Logits(sample_rows_, logits);
  kernels::Sample({.logits = logits,
                   .rows = sampling_rows_,
                   .token_limit = options_.token_limit,
                   .results = sample_results_,
                   .workspace = sample_workspace_.bytes()},
                  stream_);
  for (size_t i = 0; i < batch.samples.size(); ++i) {
    const kernels::SampleResult& sampled = sample_results_[i];
    if (sampled.status != kernels::SampleStatus::kOk) {
      const bool banned = sampled.status == kernels::SampleStatus::kNoTokenLeft;
      result.samples.push_back({.nan_logits = !banned, .no_token_left = banned});
      continue;
    }
    Slot& slot = slots_[batch.samples[i].slot];
    slot.last_token = sampled.token;
    if (slot.counts_tokens) slot.counter.AddOutput(sampled.token);
    result.samples.push_back(
        {.token = sampled.token,
         .logprob = sampled.logprob,
         .top_begin =
             AppendTop({sampled.top.data(), static_cast<size_t>(sampled.top_count)}, result),
         .top_count = sampled.top_count});
  }
}

}  // namespace parallax
