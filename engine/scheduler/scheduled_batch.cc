#include "engine/scheduler/scheduled_batch.h"

namespace parallax {

void ScheduledBatch::Clear() {
  step_id = 0;
  sequences.clear();
  samples.clear();
  attached.clear();
  detached_slots.clear();
  page_copies.clear();
  prefill_tokens = 0;
  decode_tokens = 0;
  preemptions = 0;
  prefix_query_tokens = 0;
  prefix_hit_tokens = 0;
}

}  // namespace parallax
