#include "bench/server/loadgen/command_line.h"

#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

ABSL_FLAG(std::string, target, "127.0.0.1:50051", "server, host:port");
ABSL_FLAG(std::string, tls_ca, "", "PEM file of the server's CA: use TLS");
ABSL_FLAG(std::string, tls_cert, "", "PEM file of the client's certificate (mTLS)");
ABSL_FLAG(std::string, tls_key, "", "PEM file of its key");
ABSL_FLAG(std::string, token_file, "", "file that holds the bearer token");
ABSL_FLAG(int32_t, connections, 0,
          "HTTP/2 connections the streams are spread over; 0 = one for every 512 of "
          "--concurrency, at least 4");
ABSL_FLAG(std::string, metrics, "",
          "host:port of the server's /metrics, to lay both counts side by side");

ABSL_FLAG(int32_t, concurrency, 0, "closed loop: this many streams at all times");
ABSL_FLAG(double, rate, 0.0, "open loop: requests a second");
ABSL_FLAG(std::string, arrival, "poisson",
          "open loop: constant, poisson, gamma, ramp, or trace (at the times of --trace)");
ABSL_FLAG(double, burstiness, 1.0, "gamma: shape of the gaps; below 1 burstier than Poisson");
ABSL_FLAG(double, rate_end, 0.0, "ramp: requests a second at its end");
ABSL_FLAG(double, ramp_seconds, 0.0, "ramp: its length");
ABSL_FLAG(std::optional<double>, warmup, std::nullopt,
          "seconds of load before the measurement window; 2 if not set, 0 with --arrival=trace");
ABSL_FLAG(std::optional<double>, duration, std::nullopt,
          "seconds of the measurement window; 10 if not set, all of the trace with "
          "--arrival=trace");
ABSL_FLAG(double, drain, 30.0,
          "seconds after the window for its requests to end, while the load goes on, and as many "
          "again for the rest of the load");
ABSL_FLAG(int64_t, requests, 0,
          "stop sending after this many; 0 = when the window's requests have ended");
ABSL_FLAG(int32_t, max_outstanding, 20000,
          "open loop: at more live streams than this the run fails");
ABSL_FLAG(double, max_lag_ms, 20.0, "refuse the result if the client's own p99 lag is above this");

ABSL_FLAG(
    std::string, prompt_tokens, "128",
    "N, uniform:MIN:MAX or lognormal:MEDIAN:SIGMA:MIN:MAX (sweep grid: several, comma-separated)");
ABSL_FLAG(std::string, output_tokens, "128", "likewise");
ABSL_FLAG(std::string, trace, "", "JSONL file whose lengths, or prompts, are replayed instead");
ABSL_FLAG(double, shared_prefix_share, 0.0, "share of requests that start with a common prefix");
ABSL_FLAG(int32_t, shared_prefix_tokens, 0, "its length");
ABSL_FLAG(int32_t, shared_prefix_groups, 1, "how many different common prefixes");
ABSL_FLAG(double, cancel_share, 0.0, "share of requests cancelled at a random moment");
ABSL_FLAG(uint64_t, seed, 1, "of lengths, prompts, cancellations and arrivals");
ABSL_FLAG(std::string, slo, "", "ttft=MS,tpot=MS,e2e=MS, any subset: report goodput");

ABSL_FLAG(std::vector<std::string>, concurrencies, {}, "sweep grid: closed-loop concurrencies");
ABSL_FLAG(std::vector<std::string>, durations, {},
          "sweep grid: seconds of the window for each of --prompt_tokens, instead of --duration");
ABSL_FLAG(double, min_rate, 1.0, "sweep search: lowest rate");
ABSL_FLAG(double, max_rate, 1024.0, "sweep search: highest rate");
ABSL_FLAG(double, good_share, 0.99, "sweep search: share of requests that must meet the SLO");
ABSL_FLAG(double, resolution, 0.05, "sweep search: relative width at which to stop");

ABSL_FLAG(std::string, label, "", "name of the run in its result");
ABSL_FLAG(std::vector<std::string>, annotate, {},
          "NAME=VALUE,... copied into the result: commit, machine");
ABSL_FLAG(std::string, json, "", "result file");
ABSL_FLAG(std::string, csv, "", "file to append a line to");
ABSL_FLAG(bool, quiet, false, "no progress line");

namespace parallax::loadgen {
namespace {

constexpr double kWarmupSeconds = 2.0;
constexpr double kDurationSeconds = 10.0;
constexpr char kUsage[] =
    "Load-tests a parallax-server over gRPC.\n\n"
    "  parallax-loadgen run           one run; table, JSON and CSV\n"
    "  parallax-loadgen sweep grid    every concurrency x prompt length x output length\n"
    "  parallax-loadgen sweep search  highest rate that meets the SLO\n"
    "  parallax-loadgen show          print a result file's table again";

absl::StatusOr<Command> ParseCommand(const std::vector<char*>& words) {
  const std::string command = absl::StrJoin(words.begin() + 1, words.end(), " ");
  if (command == "run") return Command::kRun;
  if (command == "sweep grid") return Command::kGrid;
  if (command == "sweep search") return Command::kSearch;
  if (command == "show") return Command::kShow;
  return absl::InvalidArgumentError(
      absl::StrCat("command \"", command, "\": run, sweep grid, sweep search or show"));
}

// --help shows the flags of this file, and no other.
void SetHelp() {
  absl::SetProgramUsageMessage(kUsage);
  absl::FlagsUsageConfig config;
  config.contains_help_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "loadgen/command_line.cc");
  };
  absl::SetFlagsUsageConfig(config);
}

absl::StatusOr<ArrivalKind> ParseArrival(const std::string& name) {
  if (name == "constant") return ArrivalKind::kConstant;
  if (name == "poisson") return ArrivalKind::kPoisson;
  if (name == "gamma") return ArrivalKind::kGamma;
  if (name == "ramp") return ArrivalKind::kRamp;
  if (name == "trace") return ArrivalKind::kTrace;
  return absl::InvalidArgumentError(
      absl::StrCat("--arrival: \"", name, "\" is not constant, poisson, gamma, ramp or trace"));
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("--token_file: cannot open ", path));
  const std::string text(std::istreambuf_iterator<char>(file), {});
  return std::string(absl::StripAsciiWhitespace(text));
}

// "ttft=200,tpot=20,e2e=5000", any subset, milliseconds.
absl::StatusOr<Slo> ParseSlo(std::string_view text) {
  Slo slo;
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ',', absl::SkipEmpty());
  for (const std::string& part : parts) {
    const std::vector<std::string> pair = absl::StrSplit(part, '=');
    double ms = 0.0;
    if (pair.size() != 2 || !absl::SimpleAtod(pair[1], &ms) || !(ms > 0.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--slo: \"", part, "\" is not NAME=MILLISECONDS"));
    }
    if (pair[0] == "ttft") {
      slo.ttft_ms = ms;
    } else if (pair[0] == "tpot") {
      slo.tpot_ms = ms;
    } else if (pair[0] == "e2e") {
      slo.e2e_ms = ms;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--slo: \"", pair[0], "\" is not ttft, tpot or e2e"));
    }
  }
  return slo;
}

absl::StatusOr<RunOptions> RunFlags(Command command) {
  RunOptions run;
  run.concurrency = absl::GetFlag(FLAGS_concurrency);
  const double rate = absl::GetFlag(FLAGS_rate);
  absl::StatusOr<ArrivalKind> kind = ParseArrival(absl::GetFlag(FLAGS_arrival));
  if (!kind.ok()) return kind.status();
  if (command == Command::kSearch && (rate != 0.0 || *kind == ArrivalKind::kTrace)) {
    return absl::InvalidArgumentError("--rate, --arrival=trace: a search chooses the rates");
  }
  if (rate != 0.0 || command == Command::kSearch || *kind == ArrivalKind::kTrace) {
    run.arrivals = ArrivalOptions{.kind = *kind,
                                  .rate = rate,
                                  .rate_end = absl::GetFlag(FLAGS_rate_end),
                                  .ramp_seconds = absl::GetFlag(FLAGS_ramp_seconds),
                                  .burstiness = absl::GetFlag(FLAGS_burstiness)};
  }
  const bool replay = command == Command::kRun && IsTraceReplay(run);
  run.arrival_seed = absl::GetFlag(FLAGS_seed);
  run.warmup_seconds = absl::GetFlag(FLAGS_warmup).value_or(replay ? 0.0 : kWarmupSeconds);
  run.duration_seconds = absl::GetFlag(FLAGS_duration).value_or(replay ? 0.0 : kDurationSeconds);
  run.drain_seconds = absl::GetFlag(FLAGS_drain);
  run.max_requests = absl::GetFlag(FLAGS_requests);
  run.max_outstanding = absl::GetFlag(FLAGS_max_outstanding);
  run.max_lag_ms = absl::GetFlag(FLAGS_max_lag_ms);
  absl::StatusOr<Slo> slo = ParseSlo(absl::GetFlag(FLAGS_slo));
  if (!slo.ok()) return slo.status();
  run.slo = *slo;
  return run;
}

WorkloadOptions WorkloadFlags() {
  return {.prompt_tokens = absl::GetFlag(FLAGS_prompt_tokens),
          .output_tokens = absl::GetFlag(FLAGS_output_tokens),
          .shared_prefix_share = absl::GetFlag(FLAGS_shared_prefix_share),
          .shared_prefix_tokens = absl::GetFlag(FLAGS_shared_prefix_tokens),
          .shared_prefix_groups = absl::GetFlag(FLAGS_shared_prefix_groups),
          .cancel_share = absl::GetFlag(FLAGS_cancel_share),
          .trace_file = absl::GetFlag(FLAGS_trace),
          .seed = absl::GetFlag(FLAGS_seed)};
}

absl::StatusOr<std::map<std::string, std::string>> ParseAnnotations(
    const std::vector<std::string>& pairs) {
  std::map<std::string, std::string> annotations;
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--annotate: \"", pair, "\" is not NAME=VALUE"));
    }
    annotations[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return annotations;
}

absl::StatusOr<ExperimentOptions> ExperimentFlags(Command command) {
  ExperimentOptions options;
  options.channel.target = absl::GetFlag(FLAGS_target);
  absl::StatusOr<std::string> token = ReadToken(absl::GetFlag(FLAGS_token_file));
  if (!token.ok()) return token.status();
  options.channel.token = *token;
  if (!absl::GetFlag(FLAGS_tls_ca).empty()) {
    options.channel.tls = client::TlsOptions{.ca_file = absl::GetFlag(FLAGS_tls_ca),
                                             .cert_file = absl::GetFlag(FLAGS_tls_cert),
                                             .key_file = absl::GetFlag(FLAGS_tls_key),
                                             .server_name = ""};
  }
  options.connections = absl::GetFlag(FLAGS_connections);
  options.metrics_address = absl::GetFlag(FLAGS_metrics);
  options.label = absl::GetFlag(FLAGS_label);
  absl::StatusOr<std::map<std::string, std::string>> annotations =
      ParseAnnotations(absl::GetFlag(FLAGS_annotate));
  if (!annotations.ok()) return annotations.status();
  options.annotations = *annotations;
  absl::StatusOr<RunOptions> run = RunFlags(command);
  if (!run.ok()) return run.status();
  options.run = *run;
  options.run.bearer_token = options.channel.token;
  options.workload = WorkloadFlags();
  return options;
}

absl::StatusOr<GridOptions> GridFlags() {
  GridOptions grid;
  for (const std::string& text : absl::GetFlag(FLAGS_concurrencies)) {
    int32_t concurrency = 0;
    if (!absl::SimpleAtoi(text, &concurrency) || concurrency < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--concurrencies: \"", text, "\" is not a positive number"));
    }
    grid.concurrencies.push_back(concurrency);
  }
  if (grid.concurrencies.empty()) {
    return absl::InvalidArgumentError("--concurrencies: a grid needs at least one");
  }
  for (const std::string& text : absl::GetFlag(FLAGS_durations)) {
    double seconds = 0.0;
    if (!absl::SimpleAtod(text, &seconds) || !(seconds > 0.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--durations: \"", text, "\" is not a positive number"));
    }
    grid.durations.push_back(seconds);
  }
  grid.prompt_tokens = absl::StrSplit(absl::GetFlag(FLAGS_prompt_tokens), ',');
  grid.output_tokens = absl::StrSplit(absl::GetFlag(FLAGS_output_tokens), ',');
  return grid;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv) {
  SetHelp();
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  absl::StatusOr<Command> command = ParseCommand(words);
  if (!command.ok()) return command.status();

  CommandLine line;
  line.command = *command;
  line.json_file = absl::GetFlag(FLAGS_json);
  line.csv_file = absl::GetFlag(FLAGS_csv);
  line.quiet = absl::GetFlag(FLAGS_quiet);
  if (line.command != Command::kRun && line.json_file.empty()) {
    return absl::InvalidArgumentError("--json: a file is needed");
  }
  if (line.command == Command::kShow) return line;
  absl::StatusOr<ExperimentOptions> experiment = ExperimentFlags(*command);
  if (!experiment.ok()) return experiment.status();
  line.experiment = *experiment;
  if (line.command == Command::kRun) {
    if (absl::Status s = ValidateRunOptions(line.experiment.run); !s.ok()) return s;
  }
  line.search = {.min_rate = absl::GetFlag(FLAGS_min_rate),
                 .max_rate = absl::GetFlag(FLAGS_max_rate),
                 .good_share = absl::GetFlag(FLAGS_good_share),
                 .resolution = absl::GetFlag(FLAGS_resolution)};
  if (line.command == Command::kGrid) {
    absl::StatusOr<GridOptions> grid = GridFlags();
    if (!grid.ok()) return grid.status();
    line.grid = *grid;
  }
  return line;
}

}  // namespace parallax::loadgen
