// Where a decode step's time goes: replays the step's CUDA graph, whole and in parts, without a
// server around it, on random weights of a reference shape. One JSON line a case.
//
//   step_bench SHAPE_FOLDER CASE ...     e.g. shapes/1.7b 1:1024 64:1664-2432 mixed:32:2048:448:7744
//
// BATCH:CONTEXT is a decode step. BATCH:LOW-HIGH makes contexts that differ, evenly spaced from HIGH
// down to LOW: a server's sequences, which it orders that way. "context" is then their mean.
//
// mixed:BATCH:CONTEXT:CHUNK:PREFIX is a step in which CHUNK rows of a prompt go beside the decoding
// sequences, after PREFIX that are computed already. Of it the layers are timed, launched one by one
// as the server does: with decode attention beside prefill's, and before it.
//
// Microseconds a replay, back to back. A context of 0 leaves attention's reads out; what remains
// beside it is launches and projections. read_fraction is the bytes that the step must read (all
// weights once, keys and values) over the time, as a share of a plain read in the same run.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bench/kernels/cuda/read_ceiling.h"
#include "engine/cuda/cuda_decoder.h"
#include "engine/cuda/device_weights.h"
#include "engine/cuda/sampler_memory.h"
#include "engine/cuda/step_cost.h"
#include "engine/cuda/step_layout.h"
#include "engine/models/communicator.h"
#include "engine/models/tensor_source.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/sampling.h"

namespace parallax::bench {
namespace {

using kernels::cuda::DeviceBuffer;
using kernels::cuda::Event;
using kernels::cuda::Graph;
using kernels::cuda::PinnedBuffer;

constexpr int kReplays = 40;
constexpr int kWarmUps = 5;
constexpr size_t kCeilingBytes = size_t{2} << 30;

struct Case {
  int batch = 0;
  int low = 0;  // contexts
  int high = 0;
  int chunk = 0;   // rows of a prompt beside them
  int prefix = 0;  // of the prompt

  // The longest first.
  int context(int sequence) const {
    return batch > 1 ? high - static_cast<int>(int64_t{high - low} * sequence / (batch - 1)) : high;
  }
  double mean_context() const {
    double sum = 0.0;
    for (int s = 0; s < batch; ++s) sum += context(s);
    return sum / batch;
  }
  bool mixed() const { return chunk > 0; }
  int sequences() const { return batch + (mixed() ? 1 : 0); }
  int tokens() const { return batch + chunk; }
  // That every decoding sequence may have.
  int pages() const { return PagesOf(high); }
  int prompt_pages() const { return mixed() ? PagesOf(prefix + chunk) : 0; }

 private:
  static int PagesOf(int keys) { return std::max(1, (keys + kPageTokens - 1) / kPageTokens); }
};

Case ParseCase(const std::string& text) {
  Case result;
  int context = 0;
  if (std::sscanf(text.c_str(), "mixed:%d:%d:%d:%d", &result.batch, &context, &result.chunk,
                  &result.prefix) == 4 &&
      result.batch >= 1 && context >= 1 && result.chunk >= 2 && result.prefix >= 0) {
    result.low = result.high = context;
    return result;
  }
  result = {};
  const int read = std::sscanf(text.c_str(), "%d:%d-%d", &result.batch, &result.low, &result.high);
  if (read == 2) result.high = result.low;
  if (read < 2 || result.batch < 1 || result.low < 0 || result.high < result.low) {
    throw std::runtime_error(
        "not BATCH:CONTEXT, BATCH:LOW-HIGH or mixed:BATCH:CONTEXT:CHUNK:PREFIX: " + text);
  }
  return result;
}

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

ModelConfig ReadConfig(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  return ValueOrThrow(ParseModelConfig(std::string(std::istreambuf_iterator<char>(file), {})));
}

class StepBench {
 public:
  StepBench(const std::string& folder, const std::vector<Case>& cases)
      : folder_(folder),
        config_(ReadConfig(folder)),
        device_(kernels::cuda::ReadDeviceProperties(0)),
        stream_(0),
        cost_model_(config_) {
    for (const Case& c : cases) {
      max_batch_ = std::max(max_batch_, c.sequences());
      max_tokens_ = std::max(max_tokens_, c.tokens());
      max_blocks_ = std::max({max_blocks_, c.pages(), c.prompt_pages()});
      num_pages_ = std::max(num_pages_, c.batch * c.pages() + c.prompt_pages());
    }
    DummyTensorSource source(/*seed=*/1, kernels::DType::kBFloat16);
    weights_ = ValueOrThrow(LoadDeviceWeights(config_, source, stream_.stream()));
    decoder_ = MakeDecoder(/*overlap_attention=*/true, {});
    sampler_ = std::make_unique<SamplerMemory>(
        SamplerMemoryOptions{.max_num_seqs = max_batch_,
                             .max_context_tokens = max_blocks_ * kPageTokens,
                             .max_rows = max_batch_,
                             .vocab_size = config_.vocab_size,
                             .token_limit = config_.vocab_size,
                             .token_mask = {},
                             .eos_token_ids = {}},
        stream_);
    AllocateSteps(cases);
    AllocatePages();
    ceiling_ = ReadBytesPerSecond(weights_->memory.data(),
                                  std::min(kCeilingBytes, weights_->memory.bytes().size()));
  }

  void Run(const Case& c) { c.mixed() ? RunMixed(c) : RunDecode(c); }

 private:
  void RunDecode(const Case& c) {
    const ForwardBatch batch = MakeBatch(c);
    const StepShape shape = DecodeShape(c.batch);
    Upload(batch, shape);
    const DeviceStep step = Step();
    const auto layers = [&] { decoder_->Forward(shape, step, caches_); };
    const auto logits = [&] { decoder_->LogitsOfRows(0, c.batch); };
    const auto sample = [&] { Sample(shape); };
    const double whole = Microseconds([&] { layers(), logits(), sample(); });
    const double bytes = cost_model_.CostOf(batch, /*decode_only=*/true).bytes;
    std::printf(
        "{\"shape\": \"%s\", \"batch\": %d, \"context\": %.0f, \"step_us\": %.1f, "
        "\"layers_us\": %.1f, \"logits_us\": %.1f, \"sample_us\": %.1f, \"read_tb_per_s\": %.3f, "
        "\"plain_read_tb_per_s\": %.3f, \"read_fraction\": %.3f}\n",
        folder_.substr(folder_.rfind('/') + 1).c_str(), c.batch, c.mean_context(), whole,
        Microseconds(layers), Microseconds(logits), Microseconds(sample), bytes / whole * 1e-6,
        ceiling_ * 1e-12, bytes / whole * 1e6 / ceiling_);
    std::fflush(stdout);
  }

  void RunMixed(const Case& c) {
    if (one_by_one_ == nullptr) {
      one_by_one_ = MakeDecoder(/*overlap_attention=*/false, decoder_->SerializedPlans());
    }
    const ForwardBatch batch = MakeBatch(c);
    const StepShape shape = ShapeOf(batch);
    Upload(batch, shape);
    const DeviceStep step = Step();
    const double at_once = EagerMicroseconds([&] { decoder_->Forward(shape, step, caches_); });
    const double one_by_one =
        EagerMicroseconds([&] { one_by_one_->Forward(shape, step, caches_); });
    std::printf(
        "{\"shape\": \"%s\", \"batch\": %d, \"context\": %d, \"chunk\": %d, \"prefix\": %d, "
        "\"layers_us\": %.1f, \"one_by_one_us\": %.1f}\n",
        folder_.substr(folder_.rfind('/') + 1).c_str(), c.batch, c.high, c.chunk, c.prefix,
        at_once, one_by_one);
    std::fflush(stdout);
  }

  std::unique_ptr<CudaDecoder> MakeDecoder(bool overlap_attention, std::string_view plans) {
    auto decoder = std::make_unique<CudaDecoder>(
        config_, *weights_,
        CudaDecoderOptions{.max_tokens = max_tokens_,
                           .max_logits_rows = max_batch_,
                           .max_context_tokens = max_blocks_ * kPageTokens,
                           .overlap_attention = overlap_attention},
        device_, communicator_, stream_.stream());
    decoder->TuneLinearLayers(plans);
    return decoder;
  }

  DeviceStep Step() const {
    return {.block = block_.data(),
            .block_tables = block_tables_.as<const int32_t>(),
            .max_blocks = max_blocks_,
            .slot_tokens = sampler_->slot_tokens()};
  }

  void AllocateSteps(const std::vector<Case>& cases) {
    size_t bytes = StepLayout(DecodeShape(max_batch_)).size;
    for (const Case& c : cases) {
      bytes = std::max(bytes, StepLayout(ShapeOf(MakeBatch(c))).size);
    }
    const size_t table_bytes = sizeof(int32_t) * max_batch_ * max_blocks_;
    block_ = DeviceBuffer(bytes, "step inputs");
    staging_ = PinnedBuffer(std::max(bytes, table_bytes), "step inputs");
    block_tables_ = DeviceBuffer(table_bytes, "block tables");
    results_ = DeviceBuffer(sizeof(kernels::SampleResult) * max_batch_, "step results");
  }

  void AllocatePages() {
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      kernels::cuda::PagedKvCache& cache = caches_.emplace_back();
      cache.num_pages = num_pages_;
      cache.num_kv_heads = static_cast<int>(config_.num_kv_heads);
      cache.head_dim = static_cast<int>(config_.head_dim);
      pages_.emplace_back(sizeof(__nv_bfloat16) * cache.num_pages * cache.page_elements(),
                          "KV pages");
      cache.data = pages_.back().as<__nv_bfloat16>();
    }
  }

  // Every sequence decodes its last token; pages of one lie next to each other. The prompt's chunk
  // is last.
  ForwardBatch MakeBatch(const Case& c) const {
    ForwardBatch batch;
    batch.query_start.push_back(0);
    batch.block_table_stride = max_blocks_;
    for (int s = 0; s < c.batch; ++s) {
      const int last = std::max(0, c.context(s) - 1);
      batch.token_ids.push_back(1 + s);
      batch.positions.push_back(last);
      batch.slot_mapping.push_back(int64_t{s} * c.pages() * kPageTokens + last);
      batch.sequence_slots.push_back(s);
      batch.query_start.push_back(s + 1);
      batch.context_len.push_back(c.context(s));
      batch.logits_rows.push_back(s);
      batch.samples.push_back({.logits_index = s, .slot = s, .output_position = 0});
      for (int page = 0; page < max_blocks_; ++page) {
        batch.block_tables.push_back(s * c.pages() + std::min(page, c.pages() - 1));
      }
    }
    if (c.mixed()) AddChunk(c, batch);
    return batch;
  }

  void AddChunk(const Case& c, ForwardBatch& batch) const {
    const int first_page = c.batch * c.pages();
    for (int position = c.prefix; position < c.prefix + c.chunk; ++position) {
      batch.token_ids.push_back(1 + position % 1000);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(int64_t{first_page} * kPageTokens + position);
    }
    batch.sequence_slots.push_back(c.batch);
    batch.query_start.push_back(c.tokens());
    batch.context_len.push_back(c.prefix + c.chunk);
    for (int page = 0; page < max_blocks_; ++page) {
      batch.block_tables.push_back(first_page + std::min(page, c.prompt_pages() - 1));
    }
  }

  void Upload(const ForwardBatch& batch, const StepShape& shape) {
    std::vector<SlotState> slots(max_batch_);
    for (int s = 0; s < max_batch_; ++s) {
      slots[s].attached = true;
      slots[s].row.slot = s;
      slots[s].row.temperature = 0.0f;
    }
    PackStep(batch, shape, /*all_logits=*/true, max_batch_, slots, staging_.data());
    kernels::cuda::CopyToDevice(block_.data(), staging_.data(), StepLayout(shape).size,
                                stream_.stream());
    stream_.Synchronize();
    std::copy(batch.block_tables.begin(), batch.block_tables.end(), staging_.as<int32_t>());
    kernels::cuda::CopyToDevice(block_tables_.data(), staging_.data(),
                                sizeof(int32_t) * batch.block_tables.size(), stream_.stream());
    stream_.Synchronize();
  }

  void Sample(const StepShape& shape) {
    const auto count = static_cast<size_t>(shape.samples);
    kernels::cuda::SampleParams params = sampler_->Params();
    params.logits = decoder_->logits();
    params.rows = {reinterpret_cast<const kernels::cuda::DeviceSamplingRow*>(
                       block_.data() + StepLayout(shape).sampling_rows),
                   count};
    params.results = {results_.as<kernels::SampleResult>(), count};
    kernels::cuda::Sample(params, device_, stream_.stream());
  }

  double Microseconds(const std::function<void()>& enqueue) {
    enqueue();
    stream_.Synchronize();
    const Graph graph = Graph::Capture(stream_.stream(), enqueue);
    for (int i = 0; i < kWarmUps; ++i) graph.Launch(stream_.stream());
    Event begin;
    Event end;
    begin.Record(stream_.stream());
    for (int i = 0; i < kReplays; ++i) graph.Launch(stream_.stream());
    end.Record(stream_.stream());
    end.Synchronize();
    return 1e3 * Event::ElapsedMilliseconds(begin, end) / kReplays;
  }

  double EagerMicroseconds(const std::function<void()>& enqueue) {
    for (int i = 0; i < kWarmUps; ++i) enqueue();
    Event begin;
    Event end;
    begin.Record(stream_.stream());
    for (int i = 0; i < kReplays; ++i) enqueue();
    end.Record(stream_.stream());
    end.Synchronize();
    return 1e3 * Event::ElapsedMilliseconds(begin, end) / kReplays;
  }

  const std::string folder_;
  const ModelConfig config_;
  const kernels::cuda::DeviceProperties device_;
  kernels::cuda::OwnedStream stream_;
  const StepCostModel cost_model_;
  SingleDeviceCommunicator communicator_;
  int max_batch_ = 0;
  int max_tokens_ = 0;
  int max_blocks_ = 0;
  int num_pages_ = 0;
  std::unique_ptr<const DeviceWeights> weights_;
  std::unique_ptr<CudaDecoder> decoder_;
  std::unique_ptr<CudaDecoder> one_by_one_;  // made for the first mixed case
  std::unique_ptr<SamplerMemory> sampler_;
  DeviceBuffer block_;
  DeviceBuffer block_tables_;
  DeviceBuffer results_;
  PinnedBuffer staging_;
  std::vector<DeviceBuffer> pages_;
  std::vector<kernels::cuda::PagedKvCache> caches_;
  double ceiling_ = 0.0;
};

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: step_bench SHAPE_FOLDER CASE ...\n");
    return 2;
  }
  try {
    std::vector<Case> cases;
    for (int i = 2; i < argc; ++i) cases.push_back(ParseCase(argv[i]));
    StepBench bench(argv[1], cases);
    for (const Case& c : cases) bench.Run(c);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "step_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) { return parallax::bench::Main(argc, argv); }
