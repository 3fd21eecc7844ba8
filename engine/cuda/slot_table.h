// What the host keeps of each slot: the fixed part of its sampling parameters, ready to be copied
// into a step.
//
// The lists of a slot (logit bias, ids banned before min_tokens, token counts) live in GPU
// memory at fixed places of that slot and are written when a sequence enters it; rows refer to
// them.
//
// Thread safety: plain data.
#ifndef PARALLAX_ENGINE_CUDA_SLOT_TABLE_H_
#define PARALLAX_ENGINE_CUDA_SLOT_TABLE_H_

#include <cstdint>
#include <vector>

#include "engine/runner/forward_batch.h"
#include "kernels/cuda/sampling.h"

namespace parallax {

/// Places that each slot has in the lists on the device.
struct SlotCapacities {
  int32_t logit_bias = SamplingParams::kMaxLogitBias;
  int32_t banned_ids = 0;
};

struct SlotState {
  bool attached = false;
  kernels::cuda::DeviceSamplingRow row;  // all but position, logits_index and the banned ids
  int32_t min_tokens = 0;
  int32_t banned_count = 0;
  /// The last token, as long as the host knows it; else kTokenFromSlot: the device does.
  int32_t known_token = kTokenFromSlot;
};

/// The state of a slot that `attach` enters. `has_token_mask`: the tokenizer has holes.
SlotState MakeSlotState(const SlotAttach& attach, const SlotCapacities& capacities,
                        const std::vector<int32_t>& eos_token_ids, bool has_token_mask);

/// Ids not to be sampled before min_tokens.
std::vector<int32_t> BannedIds(const SamplingParams& params,
                               const std::vector<int32_t>& eos_token_ids);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_SLOT_TABLE_H_
