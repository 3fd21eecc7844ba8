// Sweep: many runs, one result file.
//
//   grid    every combination of concurrency x prompt length x output length
//   search  the highest request rate at which at least a given share of the requests meets
//           the SLO, by doubling and bisection
//
// The file is rewritten after every run, atomically. A sweep started again with the same
// file skips the runs that are in it, so an interrupted sweep resumes; runs made with other
// options are refused rather than mixed.
//
// Thread safety: none.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_SWEEP_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_SWEEP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/server/loadgen/experiment.h"
#include "nlohmann/json.hpp"

namespace parallax::loadgen {

struct GridOptions {
  std::vector<int32_t> concurrencies;
  std::vector<std::string> prompt_tokens;
  std::vector<std::string> output_tokens;
  /// Seconds of the window for each of prompt_tokens; empty: those of the base options.
  std::vector<double> durations = {};
};

struct SearchOptions {
  double min_rate = 1.0;
  double max_rate = 1024.0;
  double good_share = 0.99;  // of the requests must meet the SLO
  double resolution = 0.05;  // stop when high/low - 1 is below this
};

/// Runs one point; a seam for tests.
using RunPoint = std::function<absl::StatusOr<nlohmann::json>(const ExperimentOptions&)>;

/// Whether a SweepFile wrote this document, as far as its schema tells.
bool IsSweep(const nlohmann::json& document);

/// The sweep's file: the document, and its place.
class SweepFile {
 public:
  /// Loads `path` if it exists. ALREADY_EXISTS if it was made with other `fixed` options.
  static absl::StatusOr<SweepFile> Open(const std::string& path, const std::string& kind,
                                        const nlohmann::json& fixed);

  /// The finished run of this key, or null.
  const nlohmann::json* Find(const nlohmann::json& key) const;
  absl::Status Add(const nlohmann::json& key, const nlohmann::json& result);
  absl::Status SetSummary(const nlohmann::json& summary);
  const nlohmann::json& document() const { return document_; }

 private:
  absl::Status Write() const;

  std::string path_;
  nlohmann::json document_;
};

/// DEADLINE_EXCEEDED if no request that was due in the run's window completed: the window is
/// too short for the load, and its figures would be zeros.
absl::Status RequireCompleted(const nlohmann::json& result);

/// Stops at the first point that fails or completes nothing; that one is not in the file.
absl::Status RunGrid(const ExperimentOptions& base, const GridOptions& grid, const RunPoint& run,
                     SweepFile* file);

/// The highest rate that met the SLO; 0 if not even min_rate did.
absl::StatusOr<double> SearchRate(const ExperimentOptions& base, const SearchOptions& search,
                                  const RunPoint& run, SweepFile* file);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_SWEEP_H_
