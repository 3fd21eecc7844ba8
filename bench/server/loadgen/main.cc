// parallax-loadgen: load tests of a parallax-server. See bench/server/README.md.
//
// Exit codes: 0 done, 1 failed, 2 bad command line, 3 the client lagged or had too few
// connections (no result), 130 interrupted.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "bench/server/loadgen/command_line.h"
#include "bench/server/loadgen/experiment.h"
#include "bench/server/loadgen/result_format.h"
#include "bench/server/loadgen/sweep.h"

namespace parallax::loadgen {
namespace {

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  std::cerr << "parallax-loadgen: " << status.ToString() << '\n';
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return 2;
    case absl::StatusCode::kFailedPrecondition:
      return 3;
    case absl::StatusCode::kCancelled:
      return 130;
    default:
      return 1;
  }
}

void PrintProgress(const Progress& progress) {
  std::fprintf(stderr, "\r%6.0f s  started %lld  finished %lld  live %d  %lld tok/s   ",
               progress.elapsed_seconds, static_cast<long long>(progress.started),
               static_cast<long long>(progress.finished), progress.outstanding,
               static_cast<long long>(progress.tokens_per_second));
}

absl::Status WriteFile(const std::string& path, const std::string& text, std::ios::openmode mode) {
  std::ofstream file(path, std::ios::binary | mode);
  file << text;
  file.flush();
  if (!file) return absl::UnavailableError("cannot write " + path);
  return absl::OkStatus();
}

absl::Status AppendCsv(const std::string& path, const nlohmann::json& result) {
  const std::string header = CsvHeader(result);
  std::ifstream file(path);
  std::string first_line;
  const bool has_header = static_cast<bool>(std::getline(file, first_line));
  if (has_header && first_line != header) {
    return absl::AlreadyExistsError(path + " has other columns: name another file");
  }
  return WriteFile(path, (has_header ? "" : header + "\n") + CsvLine(result) + "\n", std::ios::app);
}

bool IsSweepOfResults(const nlohmann::json& document) {
  return IsSweep(document) &&
         std::ranges::all_of(document["runs"], IsResult,
                             [](const nlohmann::json& run) { return run["result"]; });
}

absl::Status ShowFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const nlohmann::json document =
      nlohmann::json::parse(std::string(std::istreambuf_iterator<char>(file), {}), nullptr, false);
  if (IsResult(document)) {
    std::cout << ResultTable(document);
    return absl::OkStatus();
  }
  if (!IsSweepOfResults(document)) return absl::InvalidArgumentError(path + " is no result file");
  for (const nlohmann::json& run : document["runs"]) {
    std::cout << run["key"].dump() << '\n' << ResultTable(run["result"]) << '\n';
  }
  return absl::OkStatus();
}

absl::Status RunOnce(const CommandLine& line, const RunPoint& run) {
  absl::StatusOr<nlohmann::json> result = run(line.experiment);
  if (!result.ok()) return result.status();
  if (absl::Status status = RequireCompleted(*result); !status.ok()) return status;
  if (!line.json_file.empty()) {
    absl::Status status = WriteFile(line.json_file, result->dump() + "\n", std::ios::trunc);
    if (!status.ok()) return status;
  }
  return line.csv_file.empty() ? absl::OkStatus() : AppendCsv(line.csv_file, *result);
}

// What all runs of the sweep have in common, and a resumed one must have too.
nlohmann::json FixedOptions(const CommandLine& line, const nlohmann::json& model) {
  nlohmann::json fixed = OptionsToJson(line.experiment);
  fixed["model"] = model;
  fixed["annotations"] = line.experiment.annotations;
  for (const char* varied : {"concurrency", "rate"}) fixed.erase(varied);
  if (line.command != Command::kGrid) return fixed;
  for (const char* varied : {"prompt_tokens", "output_tokens"}) fixed.erase(varied);
  if (line.experiment.connections == 0) fixed.erase("connections");  // follow the concurrency
  if (!line.grid.durations.empty()) fixed["duration_seconds"] = line.grid.durations;
  return fixed;
}

absl::Status RunSweep(const CommandLine& line, const nlohmann::json& model, const RunPoint& run) {
  const bool grid = line.command == Command::kGrid;
  absl::StatusOr<SweepFile> file =
      SweepFile::Open(line.json_file, grid ? "grid" : "search", FixedOptions(line, model));
  if (!file.ok()) return file.status();
  if (grid) return RunGrid(line.experiment, line.grid, run, &*file);
  absl::StatusOr<double> rate = SearchRate(line.experiment, line.search, run, &*file);
  if (!rate.ok()) return rate.status();
  std::cout << "highest rate within the SLO: " << *rate << " req/s\n";
  return absl::OkStatus();
}

absl::Status Execute(const CommandLine& line, Experiment* experiment) {
  const bool live = !line.quiet && isatty(STDERR_FILENO) == 1;
  const RunPoint run = [&](const ExperimentOptions& options) {
    if (!line.quiet) std::cerr << OptionsToJson(options).dump() << '\n';
    absl::StatusOr<nlohmann::json> result =
        experiment->Run(options, live ? PrintProgress : nullptr);
    if (live) std::cerr << "\r\x1b[K";
    if (result.ok()) std::cout << ResultTable(*result) << std::endl;
    return result;
  };
  if (line.command == Command::kRun) return RunOnce(line, run);
  return RunSweep(line, experiment->model(), run);
}

// Waits for an interrupt on a thread of its own, so that no work is done in a handler.
void StopOnSignal(const sigset_t& signals, Experiment* experiment) {
  int signal = 0;
  sigwait(&signals, &signal);
  experiment->RequestStop();
}

int Main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  // As in the server: Debian's Abseil looks for deadlocks at every lock that gRPC takes.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);

  absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) return ExitCode(line.status());
  if (line->command == Command::kShow) return ExitCode(ShowFile(line->json_file));
  absl::StatusOr<std::unique_ptr<Experiment>> experiment =
      Experiment::Connect(line->experiment.channel);
  if (!experiment.ok()) return ExitCode(experiment.status());
  // The watcher ends with a signal: an interrupt's, or our own once the work is done.
  std::thread watcher(StopOnSignal, signals, experiment->get());
  const absl::Status status = Execute(*line, experiment->get());
  pthread_kill(watcher.native_handle(), SIGTERM);
  watcher.join();
  return ExitCode(status);
}

}  // namespace
}  // namespace parallax::loadgen

int main(int argc, char** argv) { return parallax::loadgen::Main(argc, argv); }
