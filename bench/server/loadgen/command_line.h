// The command line of parallax-loadgen as plain options.
//
// Thread safety: ParseCommandLine once, from main.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_COMMAND_LINE_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_COMMAND_LINE_H_

#include <string>

#include "absl/status/statusor.h"
#include "bench/server/loadgen/experiment.h"
#include "bench/server/loadgen/sweep.h"

namespace parallax::loadgen {

enum class Command { kRun, kGrid, kSearch, kShow };

struct CommandLine {
  Command command = Command::kRun;
  ExperimentOptions experiment;
  GridOptions grid;
  SearchOptions search;
  std::string json_file;  // run: written; grid, search: required; show: read
  std::string csv_file;   // run: a line is appended
  bool quiet = false;
};

/// INVALID_ARGUMENT names the flag.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_COMMAND_LINE_H_
