#include "server/open_calls.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/thread_name.h"

namespace parallax::server {
namespace {

// Far enough to mean never, near enough for a steady clock's nanoseconds.
constexpr absl::Duration kLongestWait = absl::Hours(24 * 365);

std::chrono::steady_clock::time_point ToSteady(absl::Time deadline) {
  return std::chrono::steady_clock::now() +
         absl::ToChronoNanoseconds(std::min(deadline - absl::Now(), kLongestWait));
}

}  // namespace

OpenCalls::OpenCalls(absl::Duration read_timeout)
    : read_timeout_(std::min(read_timeout, kLongestWait)) {
  if (read_timeout_ > absl::ZeroDuration()) thread_ = std::thread(&OpenCalls::Run, this);
}

OpenCalls::~OpenCalls() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  watch_changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<OpenCalls::Call> OpenCalls::Open(grpc::CallbackServerContext* context) {
  auto call = std::make_shared<Call>(context);
  MutexLock lock(&mutex_);
  call->serial_ = ++last_serial_;
  call->open_ = open_.insert(open_.end(), call);
  return call;
}

void OpenCalls::AwaitReader(Call* call) {
  if (!thread_.joinable()) return;
  MutexLock lock(&mutex_);
  if (!call->reason_.ok()) return;  // its time was up
  call->deadline_ = Clock::now() + absl::ToChronoNanoseconds(read_timeout_);
  if (call->watched_.has_value()) {
    watched_.splice(watched_.end(), watched_, *call->watched_);
  } else {
    call->watched_ = watched_.insert(watched_.end(), call);
  }
  if (idle_) watch_changed_.NotifyOne();
}

void OpenCalls::Close(Call* call) {
  {
    MutexLock lock(&call->context_mutex_);
    call->context_ = nullptr;
  }
  std::shared_ptr<Call> closed;  // freed after the lock is
  MutexLock lock(&mutex_);
  if (call->watched_.has_value()) watched_.erase(*std::exchange(call->watched_, std::nullopt));
  closed = std::move(*call->open_);
  open_.erase(call->open_);
  closed_.NotifyAll();
}

absl::Status OpenCalls::Reason(const Call& call) const {
  MutexLock lock(&mutex_);
  return call.reason_;
}

bool OpenCalls::AreClosedLocked(uint64_t last_serial) const {
  return open_.empty() || open_.front()->serial_ > last_serial;
}

bool OpenCalls::AwaitClosed(absl::Time deadline) {
  MutexLock lock(&mutex_);
  const uint64_t last_serial = last_serial_;
  while (!AreClosedLocked(last_serial)) {
    const absl::Time until = std::min(deadline, end_wait_);
    if (absl::Now() >= until) return false;
    closed_.WaitUntil(&mutex_, ToSteady(until));
  }
  return true;
}

void OpenCalls::EndWait(absl::Time deadline) {
  {
    MutexLock lock(&mutex_);
    end_wait_ = std::min(end_wait_, deadline);
  }
  closed_.NotifyAll();
}

int OpenCalls::CancelAll(const absl::Status& reason) {
  std::vector<std::shared_ptr<Call>> calls;
  {
    MutexLock lock(&mutex_);
    calls.assign(open_.begin(), open_.end());
    for (const auto& call : calls) call->reason_ = reason;
  }
  for (const auto& call : calls) call->TryCancel();
  return static_cast<int>(calls.size());
}

void OpenCalls::Run() {
  NameThisThread("open-calls");
  while (const std::shared_ptr<Call> late = AwaitLate()) late->TryCancel();
}

// The next call whose time is up; null: stopping.
std::shared_ptr<OpenCalls::Call> OpenCalls::AwaitLate() {
  MutexLock lock(&mutex_);
  while (!stopping_) {
    if (watched_.empty()) {
      idle_ = true;
      watch_changed_.Wait(&mutex_);
      idle_ = false;
      continue;
    }
    Call* const first = watched_.front();
    if (Clock::now() < first->deadline_) {
      watch_changed_.WaitUntil(&mutex_, first->deadline_);
      continue;
    }
    watched_.erase(*std::exchange(first->watched_, std::nullopt));
    first->reason_ = absl::ResourceExhaustedError(
        absl::StrCat("the client reads too slowly: it took nothing of its output for ",
                     absl::FormatDuration(read_timeout_)));
    return *first->open_;
  }
  return nullptr;
}

}  // namespace parallax::server
