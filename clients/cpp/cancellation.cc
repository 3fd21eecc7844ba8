#include "clients/cpp/cancellation.h"

#include <thread>
#include <utility>

namespace parallax::client {

void Cancellation::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  for (const auto& [id, on_cancel] : on_cancel_) on_cancel();
  changed_.notify_all();
}

bool Cancellation::cancelled() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

bool Cancellation::WaitFor(std::chrono::milliseconds delay) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, delay, [this] { return cancelled_; });
}

bool WaitUnlessCancelled(Cancellation* cancellation, std::chrono::milliseconds delay) {
  if (cancellation != nullptr) return cancellation->WaitFor(delay);
  std::this_thread::sleep_for(delay);
  return true;
}

CancellationScope::CancellationScope(Cancellation* cancellation, std::function<void()> on_cancel)
    : cancellation_(cancellation) {
  if (cancellation_ == nullptr) return;
  const std::lock_guard<std::mutex> lock(cancellation_->mutex_);
  if (cancellation_->cancelled_) on_cancel();
  id_ = cancellation_->next_id_++;
  cancellation_->on_cancel_.emplace(id_, std::move(on_cancel));
}

CancellationScope::~CancellationScope() {
  if (cancellation_ == nullptr) return;
  const std::lock_guard<std::mutex> lock(cancellation_->mutex_);
  cancellation_->on_cancel_.erase(id_);
}

}  // namespace parallax::client
