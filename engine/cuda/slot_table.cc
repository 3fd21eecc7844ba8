#include "engine/cuda/slot_table.h"

namespace parallax {

SlotState MakeSlotState(const SlotAttach& attach, const SlotCapacities& capacities,
                        const std::vector<int32_t>& eos_token_ids, bool has_token_mask) {
  const SamplingParams& params = *attach.params;
  SlotState state;
  state.attached = true;
  state.min_tokens = params.min_tokens;
  state.banned_count = static_cast<int32_t>(BannedIds(params, eos_token_ids).size());
  if (!attach.generated.empty()) state.known_token = attach.generated.back();
  state.row = {.temperature = params.temperature,
               .top_k = params.top_k,
               .top_p = params.top_p,
               .min_p = params.min_p,
               .repetition_penalty = params.repetition_penalty,
               .presence_penalty = params.presence_penalty,
               .frequency_penalty = params.frequency_penalty,
               .num_top_logprobs = params.logprobs.value_or(-1),
               .seed = params.seed,
               .choice_index = static_cast<uint32_t>(attach.choice_index),
               .slot = attach.slot,
               .logit_bias_begin = attach.slot * capacities.logit_bias,
               .logit_bias_count = static_cast<int32_t>(params.logit_bias.size()),
               .banned_begin = attach.slot * capacities.banned_ids,
               .allowed_mask_begin = has_token_mask ? 0 : -1,
               .counts_tokens = params.HasPenalties() ? 1 : 0};
  return state;
}

std::vector<int32_t> BannedIds(const SamplingParams& params,
                               const std::vector<int32_t>& eos_token_ids) {
  if (params.min_tokens == 0) return {};
  std::vector<int32_t> ids = eos_token_ids;
  ids.insert(ids.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  return ids;
}

}  // namespace parallax
