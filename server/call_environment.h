// CallEnvironment: what every call needs; made once at start.
//
// Thread safety: const; the objects are thread-safe and outlive every call.
#ifndef PARALLAX_SERVER_CALL_ENVIRONMENT_H_
#define PARALLAX_SERVER_CALL_ENVIRONMENT_H_

#include <cstddef>
#include <functional>

#include "engine/engine.h"
#include "server/auth.h"
#include "server/logger.h"
#include "server/metrics.h"
#include "server/open_calls.h"
#include "server/served_model.h"
#include "server/write_dispatcher.h"

namespace parallax::server {

struct CallEnvironment {
  Engine* engine = nullptr;
  const Authenticator* authenticator = nullptr;
  ServerMetrics* metrics = nullptr;
  const Logger* logger = nullptr;
  WriteDispatcher* dispatcher = nullptr;
  WriteDispatcher* reply_dispatcher = nullptr;  // of large replies: no stream waits for one
  OpenCalls* open_calls = nullptr;
  ServedModel model;
  RequestLimits limits;
  size_t outbox_bytes = 0;
  bool log_prompts = false;
  std::function<void()> on_engine_failed;  // see HealthMonitor; may be empty
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CALL_ENVIRONMENT_H_
