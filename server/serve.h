// A server process from its configuration to its exit status: starts, serves until a signal or
// until the backend breaks, stops.
//
// Thread safety: once a process; before any other thread is started.
#ifndef PARALLAX_SERVER_SERVE_H_
#define PARALLAX_SERVER_SERVE_H_

#include "server/config.h"
#include "server/model_loading.h"

namespace parallax::server {

// Documented in --help (config.cc).
enum ExitStatus { kStopped = 0, kCannotStart = 1, kBadFlags = 2, kAborted = 3, kFailed = 4 };

/// The status to exit with. Where a thread cannot be joined the process ends within.
ExitStatus Serve(const ServerConfig& config, const ModelLoader& load_model = LoadModel);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_SERVE_H_
