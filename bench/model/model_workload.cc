#include "bench/model/model_workload.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "engine/models/tensor_source.h"
#include "engine/models/weights.h"
#include "engine/runner/cpu_model_runner.h"
#include "kernels/cpu/thread_pool.h"

namespace parallax::bench {

namespace {

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

ModelConfig ConfigOf(const WorkloadShape& shape) {
  ModelConfig config;
  config.architecture = "ParallaxQwen3ForCausalLM";
  config.has_probe = true;
  config.qk_norm = true;
  config.tie_word_embeddings = true;
  config.vocab_size = shape.vocab;
  config.hidden_size = shape.hidden;
  config.num_layers = shape.layers;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.intermediate_size = shape.intermediate;
  config.layer_windows.assign(shape.layers, 0);
  return config;
}

std::unique_ptr<ModelRunner> MakeRunner(const WorkloadShape& shape, int threads, int max_sequences,
                                        int max_context, int num_pages) {
  const ModelConfig config = ConfigOf(shape);
  auto pool = std::make_unique<kernels::ThreadPool>(threads);
  DummyTensorSource source(/*seed=*/1, kernels::DType::kBFloat16);
  auto weights =
      ValueOrThrow(LoadDecoderWeights(config, source, ShardSpec{}, kernels::Stream(*pool)));
  CpuModelRunnerOptions options;
  options.name = "bench";
  options.max_context_tokens = max_context;
  options.max_num_seqs = max_sequences;
  options.max_num_batched_tokens = max_context;
  options.num_pages = num_pages;
  options.token_limit = static_cast<int32_t>(shape.vocab);
  return ValueOrThrow(CpuModelRunner::Create(config, std::move(weights), options, std::move(pool)));
}

}  // namespace

int64_t WorkloadShape::LayerParameters() const {
  const int64_t attention =
      hidden * head_dim * (2 * heads + 2 * kv_heads) + heads * head_dim * hidden;
  return layers * (attention + 3 * hidden * intermediate);
}

ModelWorkload::ModelWorkload(const WorkloadShape& shape, int threads, int max_sequences,
                             int max_context)
    : pages_per_sequence_((max_context + kPageTokens - 1) / kPageTokens),
      runner_(MakeRunner(shape, threads, max_sequences, max_context,
                         pages_per_sequence_ * max_sequences)) {
  params_.temperature = 0;
  for (int slot = 0; slot < max_sequences; ++slot) {
    batch_.attached_slots.push_back(
        {.slot = slot, .choice_index = 0, .params = &params_, .prompt = {}, .generated = {}});
  }
  Run();
}

void ModelWorkload::AddSequence(int slot, int first_position, int tokens) {
  if (batch_.query_start.empty()) batch_.query_start.push_back(0);
  const int first_page = slot * pages_per_sequence_;
  for (int position = first_position; position < first_position + tokens; ++position) {
    batch_.token_ids.push_back(position * 31 % runner_->limits().vocab_size);
    batch_.positions.push_back(position);
    batch_.slot_mapping.push_back(int64_t{first_page} * kPageTokens + position);
  }
  batch_.sequence_slots.push_back(slot);
  batch_.query_start.push_back(batch_.num_tokens());
  batch_.context_len.push_back(first_position + tokens);
  batch_.block_table_stride = pages_per_sequence_;
  for (int page = 0; page < pages_per_sequence_; ++page) {
    batch_.block_tables.push_back(first_page + page);
  }
  batch_.samples.push_back({.logits_index = static_cast<int32_t>(batch_.logits_rows.size()),
                            .slot = slot,
                            .output_position = 0});
  batch_.logits_rows.push_back(batch_.num_tokens() - 1);
}

void ModelWorkload::Run() {
  if (const absl::Status status = runner_->Launch(batch_); !status.ok()) {
    throw std::runtime_error(status.ToString());
  }
  if (const auto result = runner_->Collect(); !result.ok()) {
    throw std::runtime_error(result.status().ToString());
  }
  batch_.Clear();
}

void ModelWorkload::Prefill(int slot, int tokens) {
  AddSequence(slot, 0, tokens);
  Run();
}

void ModelWorkload::Decode(int count, int context) {
  for (int slot = 0; slot < count; ++slot) AddSequence(slot, context, 1);
  Run();
}

}  // namespace parallax::bench
