// PageUseChecker: who may touch which page while steps are in flight.
//
//   * A page is written by one sequence, whose block table alone names it (but for choices that
//     fork from it in the same step).
//   * A page is not written while a step in flight uses it for another request.
//   * What a sequence reads of another request's pages was written by a completed step.
#ifndef PARALLAX_TESTS_ENGINE_SCHEDULER_PAGE_USE_CHECKER_H_
#define PARALLAX_TESTS_ENGINE_SCHEDULER_PAGE_USE_CHECKER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/scheduler/scheduler.h"

namespace parallax::testing {

class PageUseChecker {
 public:
  PageUseChecker(int32_t num_pages, int32_t sliding_window);

  /// Empty, or the first rule that the step breaks.
  std::string OnScheduled(const Scheduler& scheduler, const ScheduledBatch& batch);
  void OnCompleted(uint64_t step_id) { completed_ = step_id; }

 private:
  struct Use {
    uint64_t step = 0;
    uint64_t arrival = 0;  // of the request
  };

  std::string CheckWrites(const Scheduler& scheduler, const ScheduledBatch& batch);
  std::string CheckReads(const ScheduledBatch& batch);
  bool InFlightForOther(const Use& use, uint64_t arrival) const {
    return use.step > completed_ && use.arrival != arrival;
  }

  const int32_t sliding_window_;
  uint64_t completed_ = 0;
  std::vector<Use> last_write_;      // [page]
  std::vector<Use> last_use_;        // [page]
  std::vector<int32_t> references_;  // [page] block tables that name it; scratch
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_SCHEDULER_PAGE_USE_CHECKER_H_
