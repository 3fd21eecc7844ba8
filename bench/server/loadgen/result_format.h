// A run's result as JSON (one document, everything), CSV (one line, the headline figures)
// and a table for people.
//
// Thread safety: stateless.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_RESULT_FORMAT_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_RESULT_FORMAT_H_

#include <map>
#include <string>

#include "bench/server/loadgen/load_driver.h"
#include "bench/server/loadgen/server_metrics.h"
#include "nlohmann/json.hpp"

namespace parallax::loadgen {

/// What the run was, for the file's reader.
struct RunIdentity {
  std::string label;
  std::string started_at;  // RFC 3339, UTC
  std::string target;
  nlohmann::json model;    // from GetModelInfo
  nlohmann::json options;  // every flag that shaped the load
  std::map<std::string, std::string> annotations;
};

/// `server_delta` is empty if the server was not scraped.
nlohmann::json ResultToJson(const RunIdentity& identity, const RunOptions& options,
                            const RunResult& result, const MetricSamples& server_delta);

/// Whether ResultToJson made this document, as far as its schema tells.
bool IsResult(const nlohmann::json& document);

/// RFC 4180. The columns are the same for every result.
std::string CsvHeader(const nlohmann::json& result);
std::string CsvLine(const nlohmann::json& result);

/// Works on the JSON, so that a saved file prints as the run did. REQUIRES: IsResult(result).
std::string ResultTable(const nlohmann::json& result);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_RESULT_FORMAT_H_
