// Names for threads, so that `top -H` and a debugger tell who is busy.
//
// Thread safety: safe.
#ifndef PARALLAX_ENGINE_BASE_THREAD_NAME_H_
#define PARALLAX_ENGINE_BASE_THREAD_NAME_H_

#include <pthread.h>

#include <string>

namespace parallax {

/// Of the calling thread; Linux keeps 15 characters.
inline void NameThisThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

}  // namespace parallax

#endif  // PARALLAX_ENGINE_BASE_THREAD_NAME_H_
