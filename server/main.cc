// parallax-server: reads the command line, serves until a signal, stops.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/application.h"
#include "server/config.h"
#include "server/logger.h"
#include "server/signals.h"

namespace parallax::server {
namespace {

// Documented in --help (config.cc).
enum ExitStatus { kStopped = 0, kCannotStart = 1, kBadFlags = 2, kAborted = 3, kFailed = 4 };

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

int Serve(const ServerConfig& config) {
  const Logger logger(config.log_level);
  absl::StatusOr<std::unique_ptr<Application>> app;
  std::atomic<Application*> running{nullptr};
  // Made before any other thread, which inherits its mask; joined before `app`, which it uses,
  // is destroyed.
  SignalThread signals;
  signals.Start(OnSignals(&running, &logger));
  app = Application::Start(config, &logger, [] { kill(getpid(), SIGTERM); });
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

int Main(int argc, char** argv) {
  const std::vector<std::string_view> args(argv + 1, argv + argc);
  const auto config = ParseServerConfig(args);
  if (!config.ok()) {
    std::cerr << "parallax-server: " << config.status().message() << '\n';
    return kBadFlags;
  }
  if (config->show_help) {
    std::cout << ServerHelp();
    return kStopped;
  }
  return Serve(*config);
}

}  // namespace
}  // namespace parallax::server

int main(int argc, char** argv) { return parallax::server::Main(argc, argv); }
