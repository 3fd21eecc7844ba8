#include "tests/engine/models/decoder_harness.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>

#include "engine/models/tensor_source.h"

namespace parallax::testing {

namespace {

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

ModelConfig ReadConfig(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  return ValueOrThrow(ParseModelConfig(text));
}

}  // namespace

DecoderHarness::DecoderHarness(const std::string& folder, const HarnessOptions& options)
    : options_(options),
      config_(ReadConfig(folder)),
      pool_(options.threads),
      stream_(pool_),
      free_pages_(options.num_pages) {
  CheckpointTensorSource source(ValueOrThrow(SafetensorsCheckpoint::Open(folder)));
  weights_ = ValueOrThrow(LoadDecoderWeights(config_, source, ShardSpec{}, stream_));
  const DecoderOptions decoder_options = {.max_num_batched_tokens = options.max_num_batched_tokens,
                                          .max_context_tokens = options.max_context_tokens,
                                          .max_logits_rows = 1};
  Communicator& communicator =
      options.communicator != nullptr ? *options.communicator : silent_communicator_;
  decoder_ =
      ValueOrThrow(Decoder::Create(config_, *weights_, decoder_options, communicator, stream_));
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    kernels::KvCacheView cache;
    cache.dtype = options.kv_dtype;
    cache.num_pages = options.num_pages;
    cache.num_kv_heads = static_cast<int>(config_.num_kv_heads);
    cache.head_dim = static_cast<int>(config_.head_dim);
    cache_memory_.push_back(
        ValueOrThrow(HostBuffer::Allocate(cache.page_bytes() * options.num_pages, "test pages")));
    cache.data = cache_memory_.back().data();
    std::memset(cache.data, 0xff, cache_memory_.back().size());  // NaN in every dtype
    caches_.push_back(cache);
  }
  std::iota(free_pages_.begin(), free_pages_.end(), 0);
  std::mt19937_64 random(options.seed);
  std::shuffle(free_pages_.begin(), free_pages_.end(), random);
}

void DecoderHarness::AppendChunk(HarnessSequence& sequence, int32_t count, ForwardBatch& batch) {
  for (int32_t position = sequence.computed; position < sequence.computed + count; ++position) {
    if (position / kPageTokens == static_cast<int32_t>(sequence.pages.size())) {
      sequence.pages.push_back(free_pages_.back());
      free_pages_.pop_back();
    }
    batch.token_ids.push_back(sequence.tokens[position]);
    batch.positions.push_back(position);
    batch.slot_mapping.push_back(int64_t{sequence.pages.back()} * kPageTokens +
                                 position % kPageTokens);
  }
  batch.query_start.push_back(batch.num_tokens());
  batch.context_len.push_back(sequence.computed + count);
}

void DecoderHarness::ReadLogits(HarnessSequence& sequence, int32_t first_row, int32_t count) {
  std::vector<float> logits(static_cast<size_t>(count) * config_.vocab_size);
  decoder_->LogitsSlice(first_row, count, 0, config_.vocab_size,
                        {logits.data(), kernels::DType::kFloat32, {count, config_.vocab_size}});
  for (int32_t i = 0; i < count; ++i) {
    const auto row = logits.begin() + i * config_.vocab_size;
    sequence.logits.emplace_back(row, row + config_.vocab_size);
  }
}

void DecoderHarness::Step(const std::vector<std::pair<HarnessSequence*, int32_t>>& chunks) {
  ForwardBatch batch;
  batch.query_start.push_back(0);
  for (const auto& [sequence, count] : chunks) AppendChunk(*sequence, count, batch);
  for (const auto& [sequence, count] : chunks) {
    batch.block_table_stride =
        std::max(batch.block_table_stride, static_cast<int32_t>(sequence->pages.size()));
  }
  for (const auto& [sequence, count] : chunks) {
    std::vector<int32_t> row = sequence->pages;
    row.resize(batch.block_table_stride, kNoPage);
    // Pages wholly behind the widest window must never be read.
    const auto [least, most] =
        std::minmax_element(config_.layer_windows.begin(), config_.layer_windows.end());
    if (*least > 0) {
      const int32_t oldest_visible = sequence->computed - *most + 1;
      for (int32_t i = 0; (i + 1) * kPageTokens <= oldest_visible; ++i) row[i] = kNoPage;
    }
    batch.block_tables.insert(batch.block_tables.end(), row.begin(), row.end());
  }
  decoder_->Forward(batch, batch.token_ids, caches_);
  for (size_t s = 0; s < chunks.size(); ++s) {
    ReadLogits(*chunks[s].first, batch.query_start[s], chunks[s].second);
    chunks[s].first->computed += chunks[s].second;
  }
}

void DecoderHarness::Run(HarnessSequence& sequence, int32_t chunk) {
  const auto total = static_cast<int32_t>(sequence.tokens.size());
  while (sequence.computed < total) {
    Step({{&sequence, std::min(chunk, total - sequence.computed)}});
  }
}

std::vector<int32_t> RandomTokens(std::mt19937_64& random, int count, int vocab) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  return tokens;
}

}  // namespace parallax::testing
