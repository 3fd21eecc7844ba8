#include "tests/kernels/cuda/sampling/sampling_harness.h"

#include <algorithm>
#include <cmath>

#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

constexpr int kCountCapacity = 64;

// The lists that rows refer to, as the runner would pack them.
struct Lists {
  std::vector<LogitBias> logit_bias;
  std::vector<int32_t> banned_ids;
  std::vector<uint32_t> allowed_masks;
  std::vector<TokenCount> counts;
  std::vector<int32_t> count_sizes;
};

void AppendCounts(const reference::SamplingRule& rule, Lists& lists) {
  std::vector<TokenCount> counts;
  for (const auto& [token, count] : rule.output_counts) counts.push_back({token, count});
  for (int token : rule.prompt_tokens) {
    if (!rule.output_counts.contains(token)) counts.push_back({token, 0});
  }
  lists.count_sizes.push_back(static_cast<int32_t>(counts.size()));
  counts.resize(kCountCapacity, TokenCount{-1, -1});
  lists.counts.insert(lists.counts.end(), counts.begin(), counts.end());
}

DeviceSamplingRow Pack(const SampledRow& sampled, int index, bool one_row_of_logits, Lists& lists) {
  const reference::SamplingRule& rule = sampled.rule;
  DeviceSamplingRow row;
  row.temperature = static_cast<float>(rule.temperature);
  row.top_k = rule.top_k;
  row.top_p = static_cast<float>(rule.top_p);
  row.min_p = static_cast<float>(rule.min_p);
  row.repetition_penalty = static_cast<float>(rule.repetition_penalty);
  row.presence_penalty = static_cast<float>(rule.presence_penalty);
  row.frequency_penalty = static_cast<float>(rule.frequency_penalty);
  row.num_top_logprobs = sampled.num_top_logprobs;
  row.seed = sampled.seed;
  row.position = sampled.position;
  row.logits_index = one_row_of_logits ? 0 : index;
  row.slot = sampled.has_slot ? index : -1;
  row.logit_bias_begin = static_cast<int32_t>(lists.logit_bias.size());
  row.logit_bias_count = static_cast<int32_t>(rule.bias.size());
  for (const auto& [token, bias] : rule.bias) {
    lists.logit_bias.push_back({token, static_cast<float>(bias)});
  }
  row.banned_begin = static_cast<int32_t>(lists.banned_ids.size());
  row.banned_count = static_cast<int32_t>(rule.banned.size());
  lists.banned_ids.insert(lists.banned_ids.end(), rule.banned.begin(), rule.banned.end());
  if (!sampled.allowed_mask.empty()) {
    row.allowed_mask_begin = static_cast<int32_t>(lists.allowed_masks.size());
    lists.allowed_masks.insert(lists.allowed_masks.end(), sampled.allowed_mask.begin(),
                               sampled.allowed_mask.end());
  }
  row.counts_tokens =
      sampled.has_slot && (!rule.prompt_tokens.empty() || !rule.output_counts.empty());
  AppendCounts(rule, lists);
  return row;
}

}  // namespace

SampledBatch SampleOnGpu(const std::vector<std::vector<float>>& logits,
                         const std::vector<SampledRow>& rows, const DeviceProperties& device) {
  const int vocab = static_cast<int>(logits.front().size());
  const int stride = (vocab + 3) / 4 * 4 + 4;
  std::vector<float> packed(logits.size() * stride, NAN);
  for (size_t i = 0; i < logits.size(); ++i) {
    std::copy(logits[i].begin(), logits[i].end(), packed.begin() + i * stride);
  }
  Lists lists;
  std::vector<DeviceSamplingRow> device_rows;
  for (const SampledRow& row : rows) {
    const int index = static_cast<int>(device_rows.size());
    device_rows.push_back(Pack(row, index, logits.size() == 1, lists));
  }

  const DeviceArray<float> logits_array(packed);
  const DeviceArray<DeviceSamplingRow> row_array(device_rows);
  const DeviceArray<LogitBias> bias(lists.logit_bias);
  const DeviceArray<int32_t> banned(lists.banned_ids);
  const DeviceArray<uint32_t> masks(lists.allowed_masks);
  const DeviceArray<TokenCount> counts(lists.counts);
  const DeviceArray<int32_t> sizes(lists.count_sizes);
  const DeviceArray<int32_t> tokens(std::vector<int32_t>(rows.size(), kUntouched));
  const DeviceArray<SampleResult> results(rows.size());
  const DeviceArray<std::byte> workspace(SampleWorkspaceBytes(rows.size(), vocab));

  SampleParams params;
  params.logits =
      ConstTensorView(logits_array.data(), DType::kFloat32,
                      {static_cast<int64_t>(logits.size()), vocab}, {DeviceType::kCuda, 0});
  params.logits.strides[0] = stride;
  params.rows = row_array.span();
  params.token_limit = rows.front().rule.token_limit;
  params.logit_bias = bias.data();
  params.banned_ids = banned.data();
  params.allowed_masks = masks.data();
  params.token_counts = {counts.data(), sizes.data(), kCountCapacity};
  params.slot_tokens = tokens.data();
  params.results = {results.data(), results.size()};
  params.workspace = {workspace.data(), workspace.size()};
  Sample(params, device, Stream(0, nullptr));

  SampledBatch batch{.results = results.Read(), .slot_tokens = tokens.Read(), .token_counts = {}};
  const std::vector<TokenCount> entries = counts.Read();
  const std::vector<int32_t> counted = sizes.Read();
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto begin = entries.begin() + i * kCountCapacity;
    batch.token_counts.emplace_back(begin, begin + counted[i]);
  }
  return batch;
}

std::vector<float> RandomLogits(int vocab, float deviation, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

}  // namespace parallax::kernels::cuda
