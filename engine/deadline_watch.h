// DeadlineWatch: the moments at which live requests run out of time.
//
// A request has up to three:
//   timeout    its partial text is all there is (finish reason deadline, status OK);
//   deadline   the caller's own: the request ends with DEADLINE_EXCEEDED;
//   hopeless   while it is queued: the moment from which its prompt cannot be processed
//              before the deadline any more. It is dropped then, and never run.
//
// How long a prompt takes at least. A step holds at most `max_chunk` rows of one prompt, and
// a step of more rows takes no less time than one of fewer. So each full chunk takes at
// least what the fastest step of half a chunk to a whole one took, and the rest of the
// prompt is counted as nothing. With a prefix cache a prompt may shrink to one row, which is
// known at admission only: no bound then, unless the request takes no prefix hits.
//
// Thread safety: engine thread only. Cost: O(log live) a request, O(1) a step.
#ifndef PARALLAX_ENGINE_DEADLINE_WATCH_H_
#define PARALLAX_ENGINE_DEADLINE_WATCH_H_

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>

#include "absl/time/time.h"
#include "engine/live_request.h"

namespace parallax {

class DeadlineWatch {
 public:
  enum class Kind { kTimeout, kDeadline, kHopeless };
  struct Expiry {
    LiveRequest* request;
    Kind kind;
  };

  /// `max_chunk`: most prompt rows of one sequence in a step.
  DeadlineWatch(int32_t max_chunk, bool prefix_cache);

  /// REQUIRES: `request` was taken in; Remove is called before it is destroyed.
  void Add(LiveRequest* request);
  void Remove(LiveRequest* request);

  /// A step of `rows` token rows took `duration`, on a steady clock.
  void NoteStep(int32_t rows, absl::Duration duration);

  /// A request whose time is up at `now`; call until there is none. Each moment is reported
  /// once.
  std::optional<Expiry> Next(absl::Time now);

 private:
  using Entry = std::tuple<absl::Time, LiveRequest*, Kind>;

  absl::Duration ShortestPrefill(const Request& request) const;
  void WatchHopeless(LiveRequest* request);

  const int32_t max_chunk_;
  const bool prefix_cache_;
  int32_t chunks_seen_ = 0;
  absl::Duration fastest_chunk_ = absl::InfiniteDuration();
  double trust_ = 1.0;  // in it: how much of it is counted
  std::set<Entry> entries_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_DEADLINE_WATCH_H_
