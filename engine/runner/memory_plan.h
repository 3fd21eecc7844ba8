// Dividing a memory budget: weights and workspaces first, all the rest into KV pages.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_RUNNER_MEMORY_PLAN_H_
#define PARALLAX_ENGINE_RUNNER_MEMORY_PLAN_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace parallax {

struct MemoryPlanRequest {
  int64_t budget_bytes = 0;  // for everything below together; ignored when num_pages is set
  int32_t num_pages = 0;     // 0 = as many as the budget and the limits allow
  int64_t free_bytes = 0;    // what num_pages must fit with the rest; 0 = not known

  int64_t weight_bytes = 0;
  int64_t activation_bytes = 0;   // grows with max_num_batched_tokens and max_num_seqs
  int64_t probe_state_bytes = 0;  // grows with max_model_len
  int64_t page_bytes = 0;         // one page in all layers

  int32_t max_context_tokens = 0;
  int32_t max_num_seqs = 0;
};

/// KV pages to allocate: at least what one sequence of max_context_tokens needs, at most what
/// max_num_seqs of them could ever use. RESOURCE_EXHAUSTED when the budget does not hold that
/// minimum, or the given pages do not fit; the message shows where the bytes go and which option to
/// change.
absl::StatusOr<int32_t> PlanKvPages(const MemoryPlanRequest& request);

/// Bytes that this process can still take: available memory, less what a cgroup forbids.
int64_t AvailableMemoryBytes();

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_MEMORY_PLAN_H_
