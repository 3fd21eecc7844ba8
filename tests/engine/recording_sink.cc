#include "tests/engine/recording_sink.h"

#include <utility>

namespace parallax {
namespace {

void BeginWithEcho(const Echo& echo, RecordedChoice* choice) {
  choice->text = echo.text;
  choice->token_ids = echo.token_ids;
  if (echo.logprobs != nullptr) choice->logprobs = *echo.logprobs;
}

}  // namespace

void RecordingSink::OnStart(RequestStart start) {
  MutexLock lock(&mutex_);
  if (recorded_.start.has_value()) Violate("OnStart twice");
  if (recorded_.done.has_value()) Violate("OnStart after OnDone");
  for (const RecordedChoice& choice : recorded_.choices) {
    if (!choice.token_ids.empty()) Violate("OnStart after a token");
  }
  if (start.echo != nullptr) {
    for (RecordedChoice& choice : recorded_.choices) BeginWithEcho(*start.echo, &choice);
  }
  recorded_.start = std::move(start);
}

void RecordingSink::OnDelta(OutputDelta delta) {
  MutexLock lock(&mutex_);
  if (recorded_.done.has_value()) Violate("OnDelta after OnDone");
  RecordedChoice& choice = recorded_.choices.at(delta.choice);
  if (choice.finish.has_value()) Violate("OnDelta after the choice's finish");
  if (!delta.token_ids.empty() && !recorded_.start.has_value()) Violate("a token before OnStart");
  ++choice.deltas;
  choice.text += delta.text;
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  choice.logprobs.insert(choice.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
  choice.finish = std::move(delta.finish);
  changed_.NotifyAll();
}

void RecordingSink::OnDone(absl::Status status) {
  MutexLock lock(&mutex_);
  if (recorded_.done.has_value()) Violate("OnDone twice");
  for (const RecordedChoice& choice : recorded_.choices) {
    if (!choice.finish.has_value()) Violate("OnDone before a choice's finish");
  }
  recorded_.done = std::move(status);
  changed_.NotifyAll();
}

Recorded RecordingSink::Await() {
  MutexLock lock(&mutex_);
  while (!recorded_.done.has_value()) changed_.Wait(&mutex_);
  return recorded_;
}

void RecordingSink::AwaitTokens(size_t count) {
  MutexLock lock(&mutex_);
  while (recorded_.choices[0].token_ids.size() < count) changed_.Wait(&mutex_);
}

Recorded RecordingSink::Now() const {
  MutexLock lock(&mutex_);
  return recorded_;
}

void RecordingSink::Violate(const char* what) {
  if (recorded_.violation.empty()) recorded_.violation = what;
}

}  // namespace parallax
