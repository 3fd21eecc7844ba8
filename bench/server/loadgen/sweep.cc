#include "bench/server/loadgen/sweep.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace parallax::loadgen {
namespace {

constexpr int kSchemaVersion = 1;

// Every run draws prompts of its own: a server whose prefix cache still holds the run before
// would answer the same prompts without computing them.
absl::StatusOr<nlohmann::json> RunOrRecall(ExperimentOptions options, const nlohmann::json& key,
                                           const RunPoint& run, SweepFile* file) {
  if (const nlohmann::json* known = file->Find(key)) return *known;
  options.workload.seed += file->document()["runs"].size();
  absl::StatusOr<nlohmann::json> result = run(options);
  if (!result.ok()) return result;
  if (absl::Status status = file->Add(key, *result); !status.ok()) return status;
  return result;
}

absl::StatusOr<bool> MeetsSlo(const ExperimentOptions& base, const SearchOptions& search,
                              double rate, const RunPoint& run, SweepFile* file) {
  ExperimentOptions options = base;
  options.run.arrivals->rate = rate;
  const absl::StatusOr<nlohmann::json> result = RunOrRecall(options, {{"rate", rate}}, run, file);
  if (!result.ok()) return result.status();
  return (*result)["goodput"]["share"].get<double>() >= search.good_share;
}

}  // namespace

bool IsSweep(const nlohmann::json& document) {
  if (!document.is_object()) return false;
  for (const char* part : {"schema_version", "sweep", "fixed_options", "runs"}) {
    if (!document.contains(part)) return false;
  }
  return document["schema_version"] == kSchemaVersion && document["runs"].is_array() &&
         std::ranges::all_of(document["runs"], [](const nlohmann::json& run) {
           return run.is_object() && run.contains("key") && run.contains("result");
         });
}

absl::StatusOr<SweepFile> SweepFile::Open(const std::string& path, const std::string& kind,
                                          const nlohmann::json& fixed) {
  SweepFile file;
  file.path_ = path;
  file.document_ = {{"schema_version", kSchemaVersion},
                    {"sweep", kind},
                    {"fixed_options", fixed},
                    {"runs", nlohmann::json::array()}};
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return file;
  const nlohmann::json existing = nlohmann::json::parse(
      std::string(std::istreambuf_iterator<char>(stream), {}), nullptr, false);
  if (!IsSweep(existing)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists and is no sweep's file"));
  }
  if (existing["sweep"] != kind || existing["fixed_options"] != fixed) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " was made with other options: ", existing["fixed_options"].dump(),
                     "; now ", fixed.dump(), ". Name another file"));
  }
  file.document_ = existing;
  return file;
}

const nlohmann::json* SweepFile::Find(const nlohmann::json& key) const {
  for (const nlohmann::json& run : document_["runs"]) {
    if (run["key"] == key) return &run["result"];
  }
  return nullptr;
}

absl::Status SweepFile::Add(const nlohmann::json& key, const nlohmann::json& result) {
  document_["runs"].push_back({{"key", key}, {"result", result}});
  return Write();
}

absl::Status SweepFile::SetSummary(const nlohmann::json& summary) {
  document_["summary"] = summary;
  return Write();
}

absl::Status SweepFile::Write() const {
  const std::string temporary = path_ + ".tmp";
  {
    std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
    stream << document_.dump() << '\n';
    stream.flush();
    if (!stream) return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
  }
  if (std::rename(temporary.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot rename ", temporary, " to ", path_));
  }
  return absl::OkStatus();
}

absl::Status RequireCompleted(const nlohmann::json& result) {
  if (result["requests"]["completed"] > 0) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("no request that was due within the ", result["window_seconds"].dump(),
                   " s of the measurement window completed: lengthen --duration, or lower "
                   "--warmup if everything was sent in it"));
}

absl::Status RunGrid(const ExperimentOptions& base, const GridOptions& grid, const RunPoint& run,
                     SweepFile* file) {
  const RunPoint checked_run = [&run](const ExperimentOptions& options) {
    absl::StatusOr<nlohmann::json> result = run(options);
    if (result.ok()) {
      if (absl::Status s = RequireCompleted(*result); !s.ok()) result = s;
    }
    return result;
  };
  if (!grid.durations.empty() && grid.durations.size() != grid.prompt_tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("durations: ", grid.durations.size(), " for ",
                                                   grid.prompt_tokens.size(), " prompt lengths"));
  }
  for (size_t i = 0; i < grid.prompt_tokens.size(); ++i) {
    const std::string& prompt = grid.prompt_tokens[i];
    for (const std::string& output : grid.output_tokens) {
      for (const int32_t concurrency : grid.concurrencies) {
        ExperimentOptions options = base;
        options.workload.prompt_tokens = prompt;
        options.workload.output_tokens = output;
        options.run.concurrency = concurrency;
        if (!grid.durations.empty()) options.run.duration_seconds = grid.durations[i];
        options.run.arrivals.reset();
        const nlohmann::json key = {
            {"concurrency", concurrency}, {"prompt_tokens", prompt}, {"output_tokens", output}};
        absl::StatusOr<nlohmann::json> result = RunOrRecall(options, key, checked_run, file);
        if (!result.ok()) return result.status();
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<double> SearchRate(const ExperimentOptions& base, const SearchOptions& search,
                                  const RunPoint& run, SweepFile* file) {
  if (!base.run.arrivals.has_value() || !base.run.slo.any()) {
    return absl::InvalidArgumentError("a search needs an arrival process and an SLO");
  }
  if (!(search.min_rate > 0.0 && search.min_rate <= search.max_rate && search.resolution > 0.0)) {
    return absl::InvalidArgumentError(absl::StrCat("rates: [", search.min_rate, ", ",
                                                   search.max_rate, "] is no range, or resolution ",
                                                   search.resolution, " is not positive"));
  }
  double low = 0.0;  // the highest rate known to be good
  double high = search.min_rate;
  while (true) {
    absl::StatusOr<bool> good = MeetsSlo(base, search, high, run, file);
    if (!good.ok()) return good.status();
    if (!*good) break;
    low = high;
    if (high >= search.max_rate) break;
    high = std::min(2.0 * high, search.max_rate);
  }
  while (low > 0.0 && high / low - 1.0 > search.resolution) {
    const double middle = 0.5 * (low + high);
    absl::StatusOr<bool> good = MeetsSlo(base, search, middle, run, file);
    if (!good.ok()) return good.status();
    (*good ? low : high) = middle;
  }
  if (absl::Status s = file->SetSummary({{"highest_good_rate", low}}); !s.ok()) return s;
  return low;
}

}  // namespace parallax::loadgen
