#include "tests/engine/scheduler/page_use_checker.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace parallax::testing {
namespace {

int32_t End(const ScheduledSequence& entry) { return entry.first_position + entry.num_tokens; }

}  // namespace

PageUseChecker::PageUseChecker(int32_t num_pages, int32_t sliding_window)
    : sliding_window_(sliding_window),
      last_write_(static_cast<size_t>(num_pages)),
      last_use_(static_cast<size_t>(num_pages)),
      references_(static_cast<size_t>(num_pages)) {}

std::string PageUseChecker::OnScheduled(const Scheduler& scheduler, const ScheduledBatch& batch) {
  std::string broken = CheckWrites(scheduler, batch);
  return broken.empty() ? CheckReads(batch) : broken;
}

std::string PageUseChecker::CheckWrites(const Scheduler& scheduler, const ScheduledBatch& batch) {
  std::ranges::fill(references_, 0);
  for (const auto& group : scheduler.groups()) {
    for (const auto& sequence : group->sequences) {
      for (const int32_t page : sequence->block_table.live_pages()) {
        ++references_[page];
      }
    }
  }
  for (const ScheduledSample& sample : batch.samples) {
    if (sample.forked) {  // begins with what the first choice writes in this step
      for (const int32_t page : sample.sequence->block_table.live_pages()) {
        --references_[page];
      }
    }
  }
  for (const ScheduledSequence& entry : batch.sequences) {
    const uint64_t arrival = entry.sequence->group->arrival;
    for (int32_t i = entry.first_position / kPageTokens; i < PagesForTokens(End(entry)); ++i) {
      const int32_t page = entry.sequence->block_table.page(i);
      if (references_[page] != 1) {
        return absl::StrFormat("page %d is written while %d tables name it", page,
                               references_[page]);
      }
      if (InFlightForOther(last_use_[page], arrival)) {
        return absl::StrFormat("page %d is written while step %d uses it for another request", page,
                               last_use_[page].step);
      }
      last_write_[page] = {.step = batch.step_id, .arrival = arrival};
    }
  }
  return "";
}

std::string PageUseChecker::CheckReads(const ScheduledBatch& batch) {
  for (const PageCopy& copy : batch.page_copies) {
    const uint64_t arrival = last_write_[copy.dst].arrival;
    if (InFlightForOther(last_write_[copy.src], arrival)) {
      return absl::StrFormat("page %d is copied before another request has written it", copy.src);
    }
    last_use_[copy.src] = {batch.step_id, arrival};
  }
  for (const ScheduledSequence& entry : batch.sequences) {
    const uint64_t arrival = entry.sequence->group->arrival;
    const int32_t first_visible =
        sliding_window_ > 0 ? std::max(0, entry.first_position - sliding_window_ + 1) : 0;
    for (int32_t i = first_visible / kPageTokens; i < PagesForTokens(End(entry)); ++i) {
      const int32_t page = entry.sequence->block_table.page(i);
      if (InFlightForOther(last_write_[page], arrival)) {
        return absl::StrFormat("page %d is read before another request's step %d has written it",
                               page, last_write_[page].step);
      }
      last_use_[page] = {batch.step_id, arrival};
    }
  }
  return "";
}

}  // namespace parallax::testing
