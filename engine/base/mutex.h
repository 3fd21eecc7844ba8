// Mutex, lock and condition variable with clang thread-safety annotations.
//
// Own wrappers around the std types rather than absl::Mutex: Debian's Abseil is built
// without ThreadSanitizer, which then cannot see its happens-before edges and reports
// races that are not there. The std types are instrumented through pthread.
//
// Thread safety: the classes are what makes other classes safe; each is used as its
// std counterpart. Compile with clang -Wthread-safety to have GUARDED_BY checked.
#ifndef PARALLAX_ENGINE_BASE_MUTEX_H_
#define PARALLAX_ENGINE_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define PARALLAX_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define PARALLAX_THREAD_ANNOTATION(x)
#endif

#define PARALLAX_CAPABILITY(x) PARALLAX_THREAD_ANNOTATION(capability(x))
#define PARALLAX_SCOPED_CAPABILITY PARALLAX_THREAD_ANNOTATION(scoped_lockable)
#define PARALLAX_GUARDED_BY(x) PARALLAX_THREAD_ANNOTATION(guarded_by(x))
#define PARALLAX_REQUIRES(...) PARALLAX_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define PARALLAX_EXCLUDES(...) PARALLAX_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define PARALLAX_ACQUIRE(...) PARALLAX_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define PARALLAX_RELEASE(...) PARALLAX_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define PARALLAX_NO_THREAD_SAFETY_ANALYSIS PARALLAX_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace parallax {

class PARALLAX_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() PARALLAX_ACQUIRE() { mutex_.lock(); }
  void Unlock() PARALLAX_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

/// Holds a Mutex for the enclosing scope.
class PARALLAX_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) PARALLAX_ACQUIRE(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() PARALLAX_RELEASE() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

/// Waits are spurious-wakeup prone: call in a loop that tests the guarded condition.
class CondVar {
 public:
  void Wait(Mutex* mutex) PARALLAX_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }

  /// Returns false if `deadline` passed before a notification.
  bool WaitUntil(Mutex* mutex, std::chrono::steady_clock::time_point deadline)
      PARALLAX_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    const bool notified = cv_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    lock.release();
    return notified;
  }

  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_BASE_MUTEX_H_
