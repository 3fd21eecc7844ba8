#include "server/serve.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/application.h"
#include "server/logger.h"
#include "server/signals.h"

namespace parallax::server {
namespace {

// Written aside and renamed: whoever waits for the file never reads half of it.
bool WriteReadyFile(const std::string& path, const std::string& line) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial);
  file << line << '\n';
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(partial, path, error);
  return file && !error;
}

// The process ends here and now. Where a thread cannot be joined (it loads a model, or hangs in
// a step) destructors would wait for it for ever.
[[noreturn]] void ExitNow(ExitStatus status) { std::_Exit(status); }

SignalThread::Callbacks OnSignals(const std::atomic<Application*>* running, const Logger* logger) {
  return {.first_stop =
              [=] {
                if (running->load() != nullptr) return;  // Serve goes on
                logger->Info("stopped_before_serving", {});
                ExitNow(kStopped);
              },
          .later_stop =
              [=] {
                Application* app = running->load();
                if (app == nullptr || !app->AbortRunning()) ExitNow(kAborted);
              },
          .reload =
              [=] {
                if (Application* app = running->load()) app->ReloadTokens();
              }};
}

}  // namespace

ExitStatus Serve(const ServerConfig& config, const ModelLoader& load_model) {
  const Logger logger(config.log_level);
  absl::StatusOr<std::unique_ptr<Application>> app;
  std::atomic<Application*> running{nullptr};
  // Made before any other thread, which inherits its mask; joined before `app`, which it uses,
  // is destroyed.
  SignalThread signals;
  signals.Start(OnSignals(&running, &logger));
  app = Application::Start(
      config, &logger, [] { kill(getpid(), SIGTERM); }, load_model);
  if (!app.ok()) {
    logger.Error("cannot_start", {{"error", app.status().ToString()}});
    return kCannotStart;
  }
  running = app->get();
  const std::string ready = (*app)->ReadyLine();
  if (!config.ready_file.empty() && !WriteReadyFile(config.ready_file, ready)) {
    logger.Error("cannot_start", {{"ready_file", config.ready_file}});
    return kCannotStart;
  }
  std::cout << ready << std::endl;
  signals.AwaitStop();
  switch ((*app)->Stop()) {
    case Application::StopResult::kFinished:
      return kStopped;
    case Application::StopResult::kAborted:
      return kAborted;
    case Application::StopResult::kFailed:
      ExitNow(kFailed);  // what is left of the backend is not to be trusted with an orderly end
    case Application::StopResult::kStuck:
      break;
  }
  ExitNow(kAborted);
}

}  // namespace parallax::server
