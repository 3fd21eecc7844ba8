// parallax-server: reads the command line, serves until a signal, stops.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "server/application.h"
#include "server/config.h"
#include "server/logger.h"
#include "server/signals.h"

namespace parallax::server {
namespace {

// Documented in --help (config.cc).
enum ExitStatus { kStopped = 0, kCannotStart = 1, kBadFlags = 2, kAborted = 3 };

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

int Serve(const ServerConfig& config) {
  SignalThread signals;  // first: every later thread inherits its mask
  const Logger logger(config.log_level);
  auto app = Application::Start(config, &logger);
  if (!app.ok()) {
    logger.Error("cannot_start", {{"error", app.status().ToString()}});
    return kCannotStart;
  }
  signals.Start(
      {.second_stop = [&] { (*app)->AbortRunning(); }, .reload = [&] { (*app)->ReloadTokens(); }});
  const std::string ready = (*app)->ReadyLine();
  std::cout << ready << std::endl;
  if (!config.ready_file.empty() && !WriteReadyFile(config.ready_file, ready)) {
    logger.Error("cannot_start", {{"ready_file", config.ready_file}});
    return kCannotStart;
  }
  signals.AwaitStop();
  return (*app)->Stop() ? kStopped : kAborted;
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
