#include "tests/engine/cuda/cuda_decoder_harness.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "engine/models/tensor_source.h"

namespace parallax::testing {
namespace {

constexpr int kLogitsRows = 128;
constexpr size_t kBlockBytes = size_t{1} << 20;

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

ModelConfig ReadConfig(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  return ValueOrThrow(ParseModelConfig(std::string(std::istreambuf_iterator<char>(file), {})));
}

}  // namespace

CudaDecoderHarness::CudaDecoderHarness(const std::string& folder, const CudaHarnessOptions& options)
    : options_(options),
      config_(ReadConfig(folder)),
      device_(kernels::cuda::ReadDeviceProperties(0)),
      stream_(0),
      block_(kBlockBytes, "test step"),
      block_tables_(sizeof(int32_t) * kMaxSequences * pages_per_sequence(), "test tables") {
  for (int i = 0; i < kMaxInFlight; ++i) {
    Flight& flight = flights_.emplace_back();
    flight.staging = kernels::cuda::PinnedBuffer(kBlockBytes, "test step");
    flight.tables = kernels::cuda::PinnedBuffer(
        sizeof(int32_t) * kMaxSequences * pages_per_sequence(), "test tables");
    flight.logits = kernels::cuda::PinnedBuffer(sizeof(float) * kLogitsRows * config_.vocab_size,
                                                "test logits");
  }
  CheckpointTensorSource source(ValueOrThrow(SafetensorsCheckpoint::Open(folder)));
  weights_ = ValueOrThrow(LoadDeviceWeights(config_, source, stream_.stream()));
  decoder_ = std::make_unique<CudaDecoder>(
      config_, *weights_,
      CudaDecoderOptions{.max_tokens = kMaxTokens,
                         .max_logits_rows = kLogitsRows,
                         .max_context_tokens = options.max_context,
                         .overlap_attention = options.overlap_attention},
      device_, communicator_, stream_.stream());
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    kernels::cuda::PagedKvCache& cache = caches_.emplace_back();
    cache.num_pages = kMaxSequences * pages_per_sequence();
    cache.num_kv_heads = static_cast<int>(config_.num_kv_heads);
    cache.head_dim = static_cast<int>(config_.head_dim);
    const size_t bytes = sizeof(__nv_bfloat16) * cache.num_pages * cache.page_elements();
    pages_.emplace_back(bytes, "test pages");
    cache.data = pages_.back().as<__nv_bfloat16>();
    kernels::cuda::PinnedBuffer poison(bytes, "poison");
    std::memset(poison.data(), 0xff, bytes);
    kernels::cuda::CopyToDevice(cache.data, poison.data(), bytes, stream_.stream());
    stream_.Synchronize();
  }
}

ForwardBatch CudaDecoderHarness::MakeBatch(const std::vector<HarnessSequence>& sequences,
                                           const std::vector<int32_t>& counts) const {
  ForwardBatch batch;
  batch.query_start.push_back(0);
  batch.block_table_stride = pages_per_sequence();
  for (size_t s = 0; s < sequences.size(); ++s) {
    if (counts[s] == 0) continue;
    const HarnessSequence& sequence = sequences[s];
    const auto first_page = static_cast<int32_t>(s) * pages_per_sequence();
    const int32_t end = sequence.computed + counts[s];
    for (int32_t position = sequence.computed; position < end; ++position) {
      batch.token_ids.push_back(sequence.tokens[position]);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(int64_t{first_page} * kPageTokens + position);
    }
    batch.sequence_slots.push_back(static_cast<int32_t>(s));
    batch.query_start.push_back(batch.num_tokens());
    batch.context_len.push_back(end);
    for (int page = 0; page < pages_per_sequence(); ++page) {
      batch.block_tables.push_back(first_page + page);
    }
  }
  return batch;
}

void CudaDecoderHarness::Forward(const ForwardBatch& batch, Flight& flight) {
  const StepShape shape = ShapeOf(batch);
  const std::vector<SlotState> slots(kMaxSequences);
  PackStep(batch, shape, /*all_logits=*/false, kLogitsRows, slots, flight.staging.data());
  kernels::cuda::CopyToDevice(block_.data(), flight.staging.data(), StepLayout(shape).size,
                              stream_.stream());
  const size_t table_bytes = sizeof(int32_t) * batch.block_tables.size();
  std::memcpy(flight.tables.data(), batch.block_tables.data(), table_bytes);
  kernels::cuda::CopyToDevice(block_tables_.data(), flight.tables.data(), table_bytes,
                              stream_.stream());
  EnqueueLayers(shape);
  if (!options_.captured) return;
  stream_.Synchronize();
  flight.graph = kernels::cuda::Graph::Capture(stream_.stream(), [&] { EnqueueLayers(shape); });
  flight.graph.Launch(stream_.stream());
}

void CudaDecoderHarness::EnqueueLayers(const StepShape& shape) {
  decoder_->Forward(shape,
                    {.block = block_.data(),
                     .block_tables = block_tables_.as<const int32_t>(),
                     .max_blocks = pages_per_sequence(),
                     .slot_tokens = {}},
                    caches_);
}

void CudaDecoderHarness::Step(std::vector<HarnessSequence>& sequences, int32_t count) {
  Forward(MakeBatch(sequences, std::vector<int32_t>(sequences.size(), count)), flights_[0]);
  ReadLogits(sequences, count);
  for (HarnessSequence& sequence : sequences) sequence.computed += count;
}

void CudaDecoderHarness::Launch(std::vector<HarnessSequence>& sequences,
                                const std::vector<int32_t>& counts) {
  Flight& flight = flights_.at(in_flight_++);
  ForwardBatch batch = MakeBatch(sequences, counts);
  for (int s = 0; s < batch.num_sequences(); ++s) {
    batch.logits_rows.push_back(batch.query_start[s + 1] - 1);
  }
  flight.logits_rows = batch.num_sequences();
  Forward(batch, flight);
  const StepLayout layout(ShapeOf(batch));
  decoder_->LogitsOfGatheredRows(
      {reinterpret_cast<const int32_t*>(block_.data() + layout.logits_rows),
       batch.logits_rows.size()});
  kernels::cuda::CopyToHost(flight.logits.data(), decoder_->logits().data,
                            sizeof(float) * flight.logits_rows * config_.vocab_size,
                            stream_.stream());
  for (size_t s = 0; s < sequences.size(); ++s) sequences[s].computed += counts[s];
}

std::vector<std::vector<float>> CudaDecoderHarness::Collect() {
  stream_.Synchronize();
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < in_flight_; ++i) {
    const float* row = flights_[i].logits.as<float>();
    for (int r = 0; r < flights_[i].logits_rows; ++r, row += config_.vocab_size) {
      rows.emplace_back(row, row + config_.vocab_size);
    }
  }
  in_flight_ = 0;
  return rows;
}

void CudaDecoderHarness::ReadLogits(std::vector<HarnessSequence>& sequences, int32_t count) {
  const kernels::cuda::PinnedBuffer& logits = flights_[0].logits;
  const auto rows = static_cast<int32_t>(sequences.size()) * count;
  for (int32_t first = 0; first < rows; first += kLogitsRows) {
    const int32_t group = std::min(kLogitsRows, rows - first);
    decoder_->LogitsOfRows(first, group);
    kernels::cuda::CopyToHost(logits.data(), decoder_->logits().data,
                              sizeof(float) * group * config_.vocab_size, stream_.stream());
    stream_.Synchronize();
    for (int32_t i = 0; i < group; ++i) {
      const float* const row = logits.as<float>() + i * config_.vocab_size;
      sequences[(first + i) / count].logits.emplace_back(row, row + config_.vocab_size);
    }
  }
}

}  // namespace parallax::testing
