#include "engine/cuda/sampler_memory.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace parallax {

using kernels::LogitBias;
using kernels::TokenCount;
using kernels::cuda::DeviceBuffer;

namespace {

constexpr size_t kMinStagingBytes = size_t{1} << 20;

SlotCapacities CapacitiesFor(const SamplerMemoryOptions& options) {
  return {.banned_ids =
              SamplingParams::kMaxStopTokens + static_cast<int32_t>(options.eos_token_ids.size())};
}

// A list has each token once.
int32_t CountsPerSlot(const SamplerMemoryOptions& options) {
  return static_cast<int32_t>(std::min<int64_t>(options.max_context_tokens, options.vocab_size));
}

size_t CountBytesPerSlot(const SamplerMemoryOptions& options) {
  return CountsPerSlot(options) * sizeof(TokenCount);
}

// The largest list of a slot fits, so that Write can always go on.
size_t StagingBytes(const SamplerMemoryOptions& options) {
  return std::max(kMinStagingBytes, CountBytesPerSlot(options));
}

}  // namespace

int64_t SamplerMemory::BytesFor(const SamplerMemoryOptions& options) {
  const SlotCapacities capacities = CapacitiesFor(options);
  const size_t slot = capacities.logit_bias * sizeof(LogitBias) +
                      capacities.banned_ids * sizeof(int32_t) + CountBytesPerSlot(options) +
                      2 * sizeof(int32_t);
  return static_cast<int64_t>(
      slot * options.max_num_seqs + options.token_mask.size() * sizeof(uint32_t) +
      kernels::cuda::SampleWorkspaceBytes(options.max_rows, options.vocab_size));
}

SamplerMemory::SamplerMemory(const SamplerMemoryOptions& options,
                             const kernels::cuda::OwnedStream& stream)
    : options_(options), stream_(stream), capacities_(CapacitiesFor(options)) {
  const size_t slots = options.max_num_seqs;
  logit_bias_ = DeviceBuffer(slots * capacities_.logit_bias * sizeof(LogitBias), "logit biases");
  banned_ids_ = DeviceBuffer(slots * capacities_.banned_ids * sizeof(int32_t), "banned ids");
  token_mask_ = DeviceBuffer(options.token_mask.size() * sizeof(uint32_t), "the token mask");
  counts_ = DeviceBuffer(slots * CountBytesPerSlot(options), "token counts");
  count_sizes_ = DeviceBuffer(slots * sizeof(int32_t), "token counts");
  slot_tokens_ = DeviceBuffer(slots * sizeof(int32_t), "sampled tokens");
  workspace_ = DeviceBuffer(
      kernels::cuda::SampleWorkspaceBytes(options.max_rows, options.vocab_size), "the sampler");
  for (auto& staging : staging_) {
    staging = kernels::cuda::PinnedBuffer(StagingBytes(options), "staging of slots");
  }
  Write(token_mask_.data(), options.token_mask.data(), token_mask_.size());
  stream.Synchronize();
}

void SamplerMemory::BeginStep(int flight) {
  flight_ = flight;
  staged_ = 0;
}

// A step that attaches more than the staging holds waits for the stream: many long prompts with
// penalties at once.
void SamplerMemory::Write(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  const kernels::cuda::PinnedBuffer& staging = staging_[flight_];
  kernels::Check(bytes <= staging.size(), "SamplerMemory", "list bytes",
                 "within the staging memory", static_cast<double>(bytes));
  if (staged_ + bytes > staging.size()) {
    stream_.Synchronize();
    staged_ = 0;
  }
  std::memcpy(staging.data() + staged_, host, bytes);
  kernels::cuda::CopyToDevice(device, staging.data() + staged_, bytes, stream_.stream());
  staged_ += bytes;
}

SlotState SamplerMemory::Attach(const SlotAttach& attach) {
  const SamplingParams& params = *attach.params;
  const SlotState state =
      MakeSlotState(attach, capacities_, options_.eos_token_ids, !options_.token_mask.empty());
  std::vector<LogitBias> bias;
  for (const auto& [token, value] : params.logit_bias) bias.push_back({token, value});
  Write(logit_bias_.as<LogitBias>() + state.row.logit_bias_begin, bias.data(),
        bias.size() * sizeof(LogitBias));
  const std::vector<int32_t> banned = BannedIds(params, options_.eos_token_ids);
  Write(banned_ids_.as<int32_t>() + state.row.banned_begin, banned.data(),
        banned.size() * sizeof(int32_t));
  if (state.row.counts_tokens == 0) return state;

  counter_.Reset(attach.prompt, attach.generated,
                 attach.prompt.size() + attach.generated.size());
  const std::span<const TokenCount> counts = counter_.counts();
  const auto size = static_cast<int32_t>(counts.size());
  Write(counts_.data() + attach.slot * CountBytesPerSlot(options_), counts.data(),
        counts.size_bytes());
  Write(count_sizes_.as<int32_t>() + attach.slot, &size, sizeof(size));
  return state;
}

std::span<const int32_t> SamplerMemory::slot_tokens() const {
  return {slot_tokens_.as<const int32_t>(), static_cast<size_t>(options_.max_num_seqs)};
}

kernels::cuda::SampleParams SamplerMemory::Params() const {
  kernels::cuda::SampleParams params;
  params.token_limit = options_.token_limit;
  params.logit_bias = logit_bias_.as<const LogitBias>();
  params.banned_ids = banned_ids_.as<const int32_t>();
  params.allowed_masks = token_mask_.as<const uint32_t>();
  params.token_counts = {.entries = counts_.as<TokenCount>(),
                         .sizes = count_sizes_.as<int32_t>(),
                         .capacity = CountsPerSlot(options_)};
  params.slot_tokens = slot_tokens_.as<int32_t>();
  params.workspace = workspace_.bytes();
  return params;
}

}  // namespace parallax
