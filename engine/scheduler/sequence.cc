#include "engine/scheduler/sequence.h"

#include <tuple>

#include "engine/kv_cache/invariant.h"

namespace parallax {
namespace {

bool Allowed(SequenceState from, SequenceState to) {
  switch (from) {
    case SequenceState::kWaiting:
      return to != SequenceState::kWaiting;
    case SequenceState::kForking:
    case SequenceState::kRunning:
      return to != from && to != SequenceState::kForking;
    case SequenceState::kFinished:
      return false;
  }
  return false;
}

}  // namespace

void Sequence::TransitionTo(SequenceState next) {
  CheckInvariant(Allowed(state, next), "sequence state transition");
  state = next;
}

void Sequence::TakePrompt() {
  if (tokens.empty()) tokens = group->request.prompt;
}

bool RunsBefore(const Sequence& a, const Sequence& b) {
  const auto key = [](const Sequence& s) {
    return std::make_tuple(s.group->request.priority, s.group->arrival, s.choice);
  };
  return key(a) < key(b);
}

}  // namespace parallax
