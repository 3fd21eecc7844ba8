// Application: the whole server as one object: model, engine, metrics and listeners, in the
// order in which they start, and the order in which they stop.
//
// Thread safety: Start and Stop from one thread; AbortRunning and ReloadTokens from any.
#ifndef PARALLAX_SERVER_APPLICATION_H_
#define PARALLAX_SERVER_APPLICATION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/auth.h"
#include "server/call_environment.h"
#include "server/config.h"
#include "server/grpc_server.h"
#include "server/logger.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/model_loading.h"
#include "server/open_calls.h"
#include "server/status_page/status_page.h"
#include "server/write_dispatcher.h"

namespace parallax::server {

class Application {
 public:
  /// Loads the model and serves; on return the server accepts calls. `logger` outlives it.
  /// `on_engine_failed` is called from another thread, once, when the backend broke: time to Stop.
  static absl::StatusOr<std::unique_ptr<Application>> Start(
      const ServerConfig& config, const Logger* logger, std::function<void()> on_engine_failed = {},
      const ModelLoader& load_model = LoadModel);
  ~Application();

  /// One JSON object on one line: the ports in use.
  std::string ReadyLine() const;

  enum class StopResult {
    kFinished,  // every request ended by itself, and its client has what it was told
    kAborted,   // some were ended with UNAVAILABLE, or cut off before their clients had read all
    kFailed,    // the backend had broken
    kStuck,     // the engine does not react: its thread cannot be joined, only left behind
  };
  /// Refuses new work and turns health NOT_SERVING; lets running requests finish within the
  /// grace period, then aborts them; waits for replies to be read, for what is left of the grace
  /// period and not less than two seconds, then stops listening.
  StopResult Stop();

  /// Ends every live request with UNAVAILABLE now, which makes a running Stop return soon.
  /// False if the engine does not react.
  [[nodiscard]] bool AbortRunning();

  const Engine& engine() const { return *engine_; }
  const ServerMetrics& metrics() const { return *metrics_; }

  /// Reads the token file again; an error is logged and changes nothing.
  void ReloadTokens();

 private:
  Application(const ServerConfig& config, const Logger* logger);

  absl::Status StartAuthentication();
  absl::Status StartEngine(const ModelLoader& load_model);
  void LogStart(const ModelRunner& runner) const;
  absl::Status StartListening();
  std::vector<HttpPage> MetricsPages() const;
  ServerStatus Status() const;
  void WarnOfOpenDoors() const;
  void AwaitReaders(absl::Time deadline);

  const ServerConfig config_;
  const Logger& logger_;
  const absl::Time started_ = absl::Now();
  // What the engine's last events and the calls' last reactions use comes first: it is
  // destroyed last.
  std::unique_ptr<ServerMetrics> metrics_;
  std::unique_ptr<Authenticator> authenticator_;
  LoadedModel model_;
  std::unique_ptr<WriteDispatcher> dispatcher_;
  std::unique_ptr<WriteDispatcher> reply_dispatcher_;
  std::unique_ptr<OpenCalls> open_calls_;
  CallEnvironment environment_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<MetricsHttp> metrics_http_;

  Mutex mutex_;
  bool aborted_ PARALLAX_GUARDED_BY(mutex_) = false;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_APPLICATION_H_
