#include "tests/engine/cuda/cuda_decoder_harness.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "engine/models/tensor_source.h"

namespace parallax::testing {
namespace {

constexpr int kPagesPerSequence = CudaDecoderHarness::kMaxContext / kPageTokens;
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

CudaDecoderHarness::CudaDecoderHarness(const std::string& folder)
    : config_(ReadConfig(folder)),
      device_(kernels::cuda::ReadDeviceProperties(0)),
      stream_(0),
      block_(kBlockBytes, "test step"),
      block_tables_(sizeof(int32_t) * kMaxSequences * kPagesPerSequence, "test tables"),
      staging_(kBlockBytes, "test step"),
      logits_(sizeof(float) * kLogitsRows * config_.vocab_size, "test logits") {
  CheckpointTensorSource source(ValueOrThrow(SafetensorsCheckpoint::Open(folder)));
  weights_ = ValueOrThrow(LoadDeviceWeights(config_, source, stream_.stream()));
  const CudaDecoderOptions options = {
      .max_tokens = kMaxTokens, .max_logits_rows = kLogitsRows, .max_context_tokens = kMaxContext};
  decoder_ = std::make_unique<CudaDecoder>(config_, *weights_, options, device_, communicator_,
                                           stream_.stream());
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    kernels::cuda::PagedKvCache& cache = caches_.emplace_back();
    cache.num_pages = kMaxSequences * kPagesPerSequence;
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
                                           int32_t count) const {
  ForwardBatch batch;
  batch.query_start.push_back(0);
  batch.block_table_stride = kPagesPerSequence;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const HarnessSequence& sequence = sequences[s];
    const auto first_page = static_cast<int32_t>(s) * kPagesPerSequence;
    for (int32_t position = sequence.computed; position < sequence.computed + count; ++position) {
      batch.token_ids.push_back(sequence.tokens[position]);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(int64_t{first_page} * kPageTokens + position);
    }
    batch.sequence_slots.push_back(static_cast<int32_t>(s));
    batch.query_start.push_back(batch.num_tokens());
    batch.context_len.push_back(sequence.computed + count);
    for (int page = 0; page < kPagesPerSequence; ++page) {
      batch.block_tables.push_back(first_page + page);
    }
  }
  return batch;
}

void CudaDecoderHarness::Step(std::vector<HarnessSequence>& sequences, int32_t count) {
  const ForwardBatch batch = MakeBatch(sequences, count);
  const StepShape shape = ShapeOf(batch);
  const std::vector<SlotState> slots(kMaxSequences);
  PackStep(batch, shape, /*all_logits=*/false, kLogitsRows, slots, staging_.data());
  kernels::cuda::CopyToDevice(block_.data(), staging_.data(), StepLayout(shape).size,
                              stream_.stream());
  stream_.Synchronize();
  const size_t table_bytes = sizeof(int32_t) * batch.block_tables.size();
  std::memcpy(staging_.data(), batch.block_tables.data(), table_bytes);
  kernels::cuda::CopyToDevice(block_tables_.data(), staging_.data(), table_bytes, stream_.stream());
  decoder_->Forward(shape,
                    {.block = block_.data(),
                     .block_tables = block_tables_.as<const int32_t>(),
                     .max_blocks = kPagesPerSequence,
                     .slot_tokens = {}},
                    caches_);
  ReadLogits(sequences, count);
  for (HarnessSequence& sequence : sequences) sequence.computed += count;
}

void CudaDecoderHarness::ReadLogits(std::vector<HarnessSequence>& sequences, int32_t count) {
  const auto rows = static_cast<int32_t>(sequences.size()) * count;
  for (int32_t first = 0; first < rows; first += kLogitsRows) {
    const int32_t group = std::min(kLogitsRows, rows - first);
    decoder_->LogitsOfRows(first, group);
    kernels::cuda::CopyToHost(logits_.data(), decoder_->logits().data,
                              sizeof(float) * group * config_.vocab_size, stream_.stream());
    stream_.Synchronize();
    for (int32_t i = 0; i < group; ++i) {
      const float* const row = logits_.as<float>() + i * config_.vocab_size;
      sequences[(first + i) / count].logits.emplace_back(row, row + config_.vocab_size);
    }
  }
}

}  // namespace parallax::testing
