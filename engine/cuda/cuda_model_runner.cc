#include "engine/cuda/cuda_model_runner.h"

#include <algorithm>
#include <new>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/cuda/gpu_model_check.h"
#include "engine/cuda/plan_file.h"
#include "engine/cuda/preparation_status.h"
#include "engine/cuda/rehearsal.h"
#include "engine/runner/batch_validation.h"
#include "engine/runner/memory_plan.h"
#include "kernels/check.h"
#include "kernels/cuda/kv_cache_write.h"
#include "kernels/cuda/parallax_decode.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/sampling.h"

namespace parallax {

using kernels::SampleResult;
using kernels::SampleStatus;
using kernels::cuda::DeviceBuffer;
using kernels::cuda::DeviceSamplingRow;
using kernels::cuda::PinnedBuffer;

namespace {

// Prompt rows whose logits are computed at once, when max_num_seqs is less.
constexpr int kMinLogitsRows = 64;
// What the driver keeps for a captured graph of a step, generously.
constexpr int64_t kBytesPerGraph = int64_t{8} << 20;

static_assert(SamplingParams::kMaxLogprobs <= kernels::kMaxTopLogprobs);
static_assert(kPageTokens == kernels::kPageSize);
static_assert(kMaxGpuQueryHeadsPerKvHead == kernels::cuda::kMaxDecodeGroupSize);
static_assert(kMaxGpuHiddenSize == kernels::cuda::kMaxHiddenSize);
static_assert(kMaxGpuVocabulary == kernels::cuda::kMaxSampleVocab);

int32_t WidestWindow(const std::vector<int32_t>& layer_windows) {
  const auto [least, most] = std::minmax_element(layer_windows.begin(), layer_windows.end());
  return *least == 0 ? 0 : *most;
}

absl::Status CheckOption(const char* option, int64_t value, int64_t most) {
  if (value > 0 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " = ", value, ": must be from 1 to ", most, " on a GPU"));
}

absl::Status CheckOptions(const ModelConfig& config, const CudaModelRunnerOptions& options) {
  for (const absl::Status& status :
       {CheckOption("max_context_tokens", options.max_context_tokens, 1 << 24),
        CheckOption("max_num_seqs", options.max_num_seqs, kernels::cuda::kMaxDecodeBatch),
        CheckOption("max_num_batched_tokens", options.max_num_batched_tokens, 1 << 20),
        CheckOption("token_limit", options.token_limit, config.vocab_size)}) {
    if (!status.ok()) return status;
  }
  if (options.max_num_batched_tokens < options.max_num_seqs) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_num_batched_tokens = ", options.max_num_batched_tokens,
                     ": must be at least max_num_seqs, ", options.max_num_seqs));
  }
  const auto mask_bits = static_cast<int64_t>(options.token_mask.size()) * 32;
  if (mask_bits > 0 && mask_bits < options.token_limit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token_mask has ", mask_bits, " bits, fewer than token_limit ", options.token_limit));
  }
  return CheckGpuServes(config);
}

double SecondsSince(absl::Time began) { return absl::ToDoubleSeconds(absl::Now() - began); }

int32_t AppendTop(const SampleResult& sampled, StepResult& result) {
  const auto begin = static_cast<int32_t>(result.top_ids.size());
  for (int i = 0; i < sampled.top_count; ++i) {
    result.top_ids.push_back(sampled.top[i].token);
    result.top_logprobs.push_back(sampled.top[i].logprob);
  }
  return begin;
}

}  // namespace

CudaModelRunner::CudaModelRunner(const ModelConfig& config, const CudaModelRunnerOptions& options,
                                 const kernels::cuda::DeviceProperties& device)
    : config_(config),
      options_(options),
      device_(device),
      stream_(device.index),
      input_stream_(device.index),
      cost_model_(config),
      max_blocks_(PagesForTokens(options.max_context_tokens)),
      max_logits_rows_(std::max(options.max_num_seqs, kMinLogitsRows)) {}

absl::StatusOr<std::unique_ptr<CudaModelRunner>> CudaModelRunner::Create(
    const ModelConfig& config, TensorSource& source, const CudaModelRunnerOptions& options) {
  if (auto status = CheckOptions(config, options); !status.ok()) return status;
  if (kernels::cuda::DeviceCount() == 0) {
    return absl::FailedPreconditionError("no GPU is visible to CUDA: is its driver loaded?");
  }
  try {
    const auto device = kernels::cuda::ReadDeviceProperties(0);
    if (!device.is_hopper()) {
      return absl::FailedPreconditionError(
          absl::StrCat(device.name, " has compute capability ", device.compute_capability / 10, ".",
                       device.compute_capability % 10, "; the GPU backend needs 9.0 (Hopper)"));
    }
    std::unique_ptr<CudaModelRunner> runner(new CudaModelRunner(config, options, device));
    if (auto status = runner->Prepare(source); !status.ok()) return status;
    return runner;
  } catch (const kernels::KernelError& error) {
    return PreparationStatus("preparing the GPU", error);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of host memory while preparing the GPU backend");
  }
}

absl::Status CudaModelRunner::Prepare(TensorSource& source) {
  if (auto status = PlanMemory(); !status.ok()) return status;
  absl::Time began = absl::Now();
  auto weights = LoadDeviceWeights(config_, source, stream_.stream());
  if (!weights.ok()) return weights.status();
  weights_ = *std::move(weights);
  stats_.start.load_seconds = SecondsSince(began);
  AllocateSteps();
  AllocatePages();
  began = absl::Now();
  TuneLinearLayers();
  stats_.start.tune_seconds = SecondsSince(began);
  began = absl::Now();
  CaptureDecodeGraphs();
  stats_.start.capture_seconds = SecondsSince(began);
  Describe();
  return Rehearse();
}

CudaDecoderOptions CudaModelRunner::DecoderOptions() const {
  return {.max_tokens = options_.max_num_batched_tokens,
          .max_logits_rows = max_logits_rows_,
          .max_context_tokens = options_.max_context_tokens};
}

SamplerMemoryOptions CudaModelRunner::SamplerOptions() const {
  return {.max_num_seqs = options_.max_num_seqs,
          .max_context_tokens = options_.max_context_tokens,
          .max_rows = max_logits_rows_,
          .vocab_size = config_.vocab_size,
          .token_limit = options_.token_limit,
          .token_mask = options_.token_mask,
          .eos_token_ids = options_.eos_token_ids};
}

StepShape CudaModelRunner::LargestShape() const {
  return {.tokens = options_.max_num_batched_tokens,
          .sequences = options_.max_num_seqs,
          .logits_rows = options_.max_num_seqs,
          .samples = options_.max_num_seqs,
          .scored_rows = options_.max_num_batched_tokens,
          .page_copies = options_.max_num_seqs};
}

StepInputSizes CudaModelRunner::InputSizes() const {
  return {.block_bytes = StepLayout(LargestShape()).size,
          .max_sequences = options_.max_num_seqs,
          .max_blocks = max_blocks_};
}

absl::Status CudaModelRunner::PlanMemory() {
  const kernels::cuda::DeviceMemoryInfo memory = kernels::cuda::ReadDeviceMemoryInfo();
  const CudaDecoderMemory decoder = CudaDecoder::MemoryFor(config_, DecoderOptions(), device_);
  const auto buckets = static_cast<int64_t>(DecodeBuckets(options_.max_num_seqs).size());
  stats_.weight_bytes = DeviceWeightBytes(config_);
  stats_.activation_bytes = decoder.activations + SamplerMemory::BytesFor(SamplerOptions()) +
                            kStepsInFlight * static_cast<int64_t>(InputSizes().device_bytes());
  stats_.probe_state_bytes = decoder.probe_states;
  stats_.graph_bytes = buckets * kStepsInFlight * kBytesPerGraph;
  stats_.peak_bytes_per_second = kernels::cuda::PeakBytesPerSecond(device_.index);
  stats_.peak_flops_per_second = kernels::cuda::PeakBf16FlopsPerSecond(device_.index);

  const kernels::cuda::PagedKvCache layout{.num_kv_heads = static_cast<int>(config_.num_kv_heads),
                                           .head_dim = static_cast<int>(config_.head_dim)};
  limits_.page_bytes =
      layout.page_elements() * static_cast<int64_t>(sizeof(__nv_bfloat16)) * config_.num_layers;
  // What other processes, and this one's context, hold counts as used up.
  const auto taken = static_cast<int64_t>(memory.total_bytes - memory.free_bytes);
  const auto share =
      static_cast<int64_t>(options_.memory_utilization * static_cast<double>(memory.total_bytes));
  const absl::StatusOr<int32_t> num_pages = PlanKvPages({
      .budget_bytes =
          options_.memory_budget_bytes > 0 ? options_.memory_budget_bytes : share - taken,
      .num_pages = options_.num_pages,
      .free_bytes = static_cast<int64_t>(memory.free_bytes),
      .weight_bytes = stats_.weight_bytes,
      // What graphs take is guessed generously: the guess must not refuse pages that are given.
      .activation_bytes =
          stats_.activation_bytes + (options_.num_pages > 0 ? 0 : stats_.graph_bytes),
      .probe_state_bytes = stats_.probe_state_bytes,
      .page_bytes = limits_.page_bytes,
      .max_context_tokens = options_.max_context_tokens,
      .max_num_seqs = options_.max_num_seqs,
  });
  if (!num_pages.ok()) {
    return absl::Status(num_pages.status().code(),
                        absl::StrCat("GPU memory: ", num_pages.status().message()));
  }
  limits_.num_pages = *num_pages;
  stats_.kv_cache_bytes = limits_.page_bytes * limits_.num_pages;
  return absl::OkStatus();
}

void CudaModelRunner::AllocateSteps() {
  decoder_ = std::make_unique<CudaDecoder>(config_, *weights_, DecoderOptions(), device_,
                                           communicator_, stream_.stream());
  sampler_ = std::make_unique<SamplerMemory>(SamplerOptions(), stream_);
  slots_.resize(options_.max_num_seqs);
  const StepShape largest = LargestShape();
  for (Flight& flight : flights_) {
    flight.inputs = std::make_unique<StepInputs>(InputSizes());
    flight.results = PinnedBuffer(sizeof(SampleResult) * (largest.scored_rows + largest.samples),
                                  "step results");
    flight.score_targets.reserve(largest.scored_rows);
    if (options_.token_limit == config_.vocab_size) continue;
    flight.scores_beyond_limit =
        PinnedBuffer(sizeof(SampleResult) * largest.scored_rows, "step results");
  }
}

void CudaModelRunner::AllocatePages() {
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    kernels::cuda::PagedKvCache& cache = caches_.emplace_back();
    cache.num_pages = limits_.num_pages;
    cache.num_kv_heads = static_cast<int>(config_.num_kv_heads);
    cache.head_dim = static_cast<int>(config_.head_dim);
    pages_.emplace_back(sizeof(__nv_bfloat16) * cache.num_pages * cache.page_elements(),
                        "KV pages in GPU memory");
    cache.data = pages_.back().as<__nv_bfloat16>();
  }
}

void CudaModelRunner::TuneLinearLayers() {
  decoder_->TuneLinearLayers(ReadPlanFile(options_.plan_file));
  WritePlanFile(options_.plan_file, decoder_->SerializedPlans());
}

// Each bucket runs once before it is captured, on padding alone: what the runtime and the ops
// do at a first launch must not happen within a capture.
void CudaModelRunner::CaptureDecodeGraphs() {
  const size_t free_before = kernels::cuda::ReadDeviceMemoryInfo().free_bytes;
  const ForwardBatch padding;
  for (const int bucket : DecodeBuckets(options_.max_num_seqs)) {
    const StepShape shape = DecodeShape(bucket);
    SendInputs(padding, shape, /*all_logits=*/true, flights_[0]);
    EnqueueDecode(shape, flights_[0]);
    stream_.Synchronize();
    for (Flight& flight : flights_) {
      const auto enqueue = [&] { EnqueueDecode(shape, flight); };
      flight.decode_graphs.emplace(bucket,
                                   kernels::cuda::Graph::Capture(stream_.stream(), enqueue));
    }
  }
  stream_.Synchronize();
  const size_t free_after = kernels::cuda::ReadDeviceMemoryInfo().free_bytes;
  stats_.graph_bytes = static_cast<int64_t>(free_before - std::min(free_before, free_after));
}

void CudaModelRunner::Describe() {
  limits_.vocab_size = static_cast<int32_t>(config_.vocab_size);
  limits_.max_context_tokens = options_.max_context_tokens;
  limits_.sliding_window = WidestWindow(config_.layer_windows);
  limits_.max_num_seqs = options_.max_num_seqs;
  limits_.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits_.max_steps_in_flight = kStepsInFlight;
  limits_.probe_state_bytes = stats_.probe_state_bytes;

  description_.name = options_.name;
  description_.architecture = config_.architecture;
  description_.weight_dtype = "bfloat16";
  description_.kv_dtype = "bfloat16";
  description_.device = device_.name;
  description_.num_parameters = weights_->num_parameters;
  description_.weight_bytes = stats_.weight_bytes;
  description_.num_layers = static_cast<int32_t>(config_.num_layers);
  description_.num_heads = static_cast<int32_t>(config_.num_heads);
  description_.num_kv_heads = static_cast<int32_t>(config_.num_kv_heads);
  description_.head_dim = static_cast<int32_t>(config_.head_dim);
  description_.hidden_size = static_cast<int32_t>(config_.hidden_size);
  description_.probe = config_.has_probe;
}

absl::Status CudaModelRunner::Rehearse() {
  const SamplingParams params;
  for (const ForwardBatch& step : RehearsalSteps(limits_, max_logits_rows_, &params)) {
    if (auto status = Launch(step); !status.ok()) return status;
    if (auto result = Collect(); !result.ok()) return result.status();
  }
  slots_.assign(slots_.size(), SlotState());
  stats_.eager_steps = {};
  stats_.graph_replays = {};
  return absl::OkStatus();
}

absl::Status CudaModelRunner::Launch(const ForwardBatch& batch) {
  if (launched_ - collected_ == kStepsInFlight) {
    return absl::FailedPreconditionError(
        absl::StrCat("more than ", kStepsInFlight, " steps in flight"));
  }
  if (auto status = ValidateBatch(batch, limits_); !status.ok()) return status;
  try {
    return LaunchChecked(batch);
  } catch (const kernels::KernelError& error) {
    return absl::InternalError(absl::StrCat("step ", batch.step_id, ": ", error.what()));
  } catch (const std::bad_alloc&) {
    return absl::InternalError(absl::StrCat("step ", batch.step_id, ": out of host memory"));
  }
}

absl::Status CudaModelRunner::LaunchChecked(const ForwardBatch& batch) {
  if (batch.block_table_stride > max_blocks_ ||
      static_cast<int32_t>(batch.page_copies.size()) > options_.max_num_seqs) {
    return absl::InternalError(
        absl::StrCat("step ", batch.step_id, ": block_table_stride = ", batch.block_table_stride,
                     ", page_copies.size() = ", batch.page_copies.size(), " exceed ", max_blocks_,
                     " and ", options_.max_num_seqs));
  }
  const int index = static_cast<int>(launched_ % kStepsInFlight);
  sampler_->BeginStep(index);
  UpdateSlots(batch);
  for (const SampleTask& task : batch.samples) {
    if (!slots_[task.slot].attached) {
      return absl::InternalError(absl::StrCat("sampling slot ", task.slot, " is not attached"));
    }
  }
  RunStep(batch, flights_[index]);
  for (const SampleTask& task : batch.samples) slots_[task.slot].known_token = kTokenFromSlot;
  ++launched_;
  return absl::OkStatus();
}

void CudaModelRunner::UpdateSlots(const ForwardBatch& batch) {
  for (const int32_t slot : batch.detached_slots) slots_[slot] = {};
  for (const SlotAttach& attach : batch.attached_slots) {
    slots_[attach.slot] = sampler_->Attach(attach);
  }
}

// Enqueues everything of a step, from its inputs to its results.
void CudaModelRunner::RunStep(const ForwardBatch& batch, Flight& flight) {
  StepShape shape = ShapeOf(batch);
  flight.step_id = batch.step_id;
  ScoreTargets(batch, flight.score_targets);
  flight.samples = shape.samples;
  const bool graph = shape.decode_only() && shape.tokens > 0;
  if (graph) {
    const auto& [bucket, captured] = *flight.decode_graphs.lower_bound(shape.decode_rows());
    const int page_copies = shape.page_copies;
    shape = DecodeShape(bucket);
    shape.page_copies = page_copies;
    SendInputs(batch, shape, /*all_logits=*/true, flight);
    CopyPages(shape, flight);
    captured.Launch(stream_.stream());
  } else {
    SendInputs(batch, shape, /*all_logits=*/false, flight);
    CopyPages(shape, flight);
    if (shape.tokens > 0) RunEagerly(batch, shape, flight);
  }
  ended(launched_).Record(stream_.stream());
  flight.cost = cost_model_.CostOf(batch, graph);
}

void CudaModelRunner::SendInputs(const ForwardBatch& batch, const StepShape& shape, bool all_logits,
                                 const Flight& flight) {
  PackStep(batch, shape, all_logits, max_logits_rows_, slots_, flight.inputs->staging());
  flight.inputs->Send(batch, StepLayout(shape).size, input_stream_.stream());
  flight.inputs->HoldBack(stream_.stream());
}

void CudaModelRunner::CopyPages(const StepShape& shape, const Flight& flight) {
  if (shape.page_copies == 0) return;
  const auto* const copies = reinterpret_cast<const kernels::PageCopy*>(
      flight.inputs->block() + StepLayout(shape).page_copies);
  kernels::cuda::CopyKvPages({copies, static_cast<size_t>(shape.page_copies)}, caches_,
                             stream_.stream());
}

DeviceStep CudaModelRunner::Step(const Flight& flight) const {
  return {.block = flight.inputs->block(),
          .block_tables = flight.inputs->block_tables(),
          .max_blocks = max_blocks_,
          .slot_tokens = sampler_->slot_tokens()};
}

void CudaModelRunner::EnqueueDecode(const StepShape& shape, const Flight& flight) {
  decoder_->Forward(shape, Step(flight), caches_);
  decoder_->LogitsOfRows(0, shape.tokens);
  SampleRows(shape, flight);
}

void CudaModelRunner::RunEagerly(const ForwardBatch& batch, const StepShape& shape,
                                 const Flight& flight) {
  decoder_->Forward(shape, Step(flight), caches_);
  ScorePrompts(batch, shape, flight);
  const auto* const rows =
      reinterpret_cast<const int32_t*>(flight.inputs->block() + StepLayout(shape).logits_rows);
  decoder_->LogitsOfGatheredRows({rows, static_cast<size_t>(shape.logits_rows)});
  SampleRows(shape, flight);
}

// Results 0 .. scored_rows - 1, in groups that fit the logits' memory. Ids beyond the tokenizer's
// limit are not to be listed among the most likely, and cannot be chosen below it: where a prompt
// has them, rows are scored once more without the limit, for such targets' sake.
void CudaModelRunner::ScorePrompts(const ForwardBatch& batch, const StepShape& shape,
                                   const Flight& flight) {
  const StepLayout layout(shape);
  const std::byte* const block = flight.inputs->block();
  const auto* const rows = reinterpret_cast<const DeviceSamplingRow*>(block + layout.score_rows);
  kernels::cuda::SampleParams params = sampler_->Params();
  params.logits = decoder_->logits();
  params.logit_bias = reinterpret_cast<const kernels::LogitBias*>(block + layout.score_bias);
  size_t scored = 0;
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    for (int32_t begin = 0; begin < task.count; begin += max_logits_rows_) {
      const auto count = static_cast<size_t>(std::min(max_logits_rows_, task.count - begin));
      decoder_->LogitsOfRows(task.first_row + begin, static_cast<int>(count));
      params.rows = {rows + scored, count};
      params.results = {flight.results.as<SampleResult>() + scored, count};
      params.token_limit = options_.token_limit;
      kernels::cuda::Sample(params, device_, stream_.stream());
      const std::span<const int32_t> targets(flight.score_targets.data() + scored, count);
      if (*std::max_element(targets.begin(), targets.end()) >= options_.token_limit) {
        params.results = {flight.scores_beyond_limit.as<SampleResult>() + scored, count};
        params.token_limit = config_.vocab_size;
        kernels::cuda::Sample(params, device_, stream_.stream());
      }
      scored += count;
    }
  }
}

// Results scored_rows .. scored_rows + samples - 1.
void CudaModelRunner::SampleRows(const StepShape& shape, const Flight& flight) {
  if (shape.samples == 0) return;
  const auto* const rows = reinterpret_cast<const DeviceSamplingRow*>(
      flight.inputs->block() + StepLayout(shape).sampling_rows);
  const auto count = static_cast<size_t>(shape.samples);
  kernels::cuda::SampleParams params = sampler_->Params();
  params.logits = decoder_->logits();
  params.rows = {rows, count};
  params.results = {flight.results.as<SampleResult>() + shape.scored_rows, count};
  kernels::cuda::Sample(params, device_, stream_.stream());
}

absl::StatusOr<const StepResult*> CudaModelRunner::Collect() {
  if (launched_ == collected_) return absl::FailedPreconditionError("no step is in flight");
  const Flight& flight = flights_[collected_ % kStepsInFlight];
  StepResult& result = results_[collected_ % results_.size()];
  try {
    ended(collected_).Synchronize();
    NoteStep(flight);
    ReadResults(flight, result);
  } catch (const kernels::KernelError& error) {
    return absl::InternalError(absl::StrCat("step ", flight.step_id, ": ", error.what()));
  } catch (const std::bad_alloc&) {
    return absl::InternalError(absl::StrCat("step ", flight.step_id, ": out of host memory"));
  }
  ++collected_;
  return &result;
}

void CudaModelRunner::ReadResults(const Flight& flight, StepResult& result) const {
  result.Clear();
  result.step_id = flight.step_id;
  const int scored_rows = static_cast<int>(flight.score_targets.size());
  for (int row = 0; row < scored_rows; ++row) {
    result.prompt_logprobs.push_back(ReadScore(flight, row, result));
  }
  const auto* sampled = flight.results.as<const SampleResult>() + scored_rows;
  for (int i = 0; i < flight.samples; ++i, ++sampled) {
    if (sampled->status != SampleStatus::kOk) {
      // As on the CPU: a row without a token is broken, whatever the reason.
      result.samples.push_back({.nan_logits = true});
      continue;
    }
    result.samples.push_back({.token = sampled->token,
                              .logprob = sampled->logprob,
                              .top_begin = AppendTop(*sampled, result),
                              .top_count = sampled->top_count});
  }
}

PromptLogprob CudaModelRunner::ReadScore(const Flight& flight, int row, StepResult& result) const {
  const int32_t target = flight.score_targets[row];
  const SampleResult& listed = flight.results.as<const SampleResult>()[row];
  const SampleResult& scored = target < options_.token_limit
                                   ? listed
                                   : flight.scores_beyond_limit.as<const SampleResult>()[row];
  if (scored.status == SampleStatus::kNan) return {.nan_logits = true};
  return {.logprob = LogprobOfTarget(scored, target),
          .top_begin = AppendTop(listed, result),
          .top_count = listed.top_count};
}

void CudaModelRunner::NoteStep(const Flight& flight) {
  DeviceStats::Work& work = flight.cost.decode_only ? stats_.graph_replays : stats_.eager_steps;
  ++work.steps;
  work.seconds += DeviceSeconds(flight);
  work.bytes += flight.cost.bytes;
  work.flops += flight.cost.flops;
}

// A step begins when its inputs are there and the one before it has ended.
double CudaModelRunner::DeviceSeconds(const Flight& flight) const {
  using kernels::cuda::Event;
  float milliseconds = Event::ElapsedMilliseconds(flight.inputs->sent(), ended(collected_));
  if (collected_ > 0) {
    milliseconds = std::min(milliseconds,
                            Event::ElapsedMilliseconds(ended(collected_ - 1), ended(collected_)));
  }
  return 1e-3 * milliseconds;
}

}  // namespace parallax
