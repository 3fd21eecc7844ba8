// Workload: what each request of a run asks for, drawn from seeds alone, so that two runs
// with the same options send the same requests in the same order.
//
// Prompts are token ids, uniform over the vocabulary's ordinary part: the server's work
// depends on lengths and shared prefixes, not on meaning. A share of the requests starts
// with one of a few common prefixes, as system prompts do.
//
// Thread safety: none.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_WORKLOAD_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_WORKLOAD_H_

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/server/loadgen/length_distribution.h"

namespace parallax::loadgen {

struct WorkloadOptions {
  std::string prompt_tokens = "128";  // LengthDistribution
  std::string output_tokens = "128";
  double shared_prefix_share = 0.0;  // [0, 1]: of the requests
  int32_t shared_prefix_tokens = 0;  // of each common prefix
  int32_t shared_prefix_groups = 1;  // different common prefixes, [1, 65536]
  double cancel_share = 0.0;         // [0, 1]: cancelled at a random moment
  std::string trace_file;            // JSONL; replaces the lengths
  uint64_t seed = 0;
};

/// One line of a trace: {"timestamp": s, "prompt_tokens": n, "output_tokens": n}, or
/// "token_ids" instead of "prompt_tokens"; timestamp may be missing in all lines.
struct TraceEntry {
  std::optional<double> timestamp_seconds;
  int32_t prompt_tokens = 0;
  std::vector<int32_t> token_ids;
  int32_t output_tokens = 0;
};

/// INVALID_ARGUMENT names the line and the field.
absl::StatusOr<std::vector<TraceEntry>> ParseTrace(const std::string& text);

struct PlannedRequest {
  std::vector<int32_t> prompt;
  int32_t output_tokens = 1;
  /// Cancel once this many tokens have arrived; 0 = as soon as the call has started.
  std::optional<int32_t> cancel_after;
};

class Workload {
 public:
  /// What the model allows: token ids below `vocab_size`, prompt plus output at most
  /// `max_context_tokens`.
  static absl::StatusOr<Workload> Create(const WorkloadOptions& options, int32_t vocab_size,
                                         int32_t max_context_tokens);

  PlannedRequest Next();

  /// Trace lines; empty without a trace.
  const std::vector<TraceEntry>& trace() const { return trace_; }
  /// Every line of the trace has a timestamp.
  bool has_timed_trace() const;

 private:
  Workload(const WorkloadOptions& options, LengthDistribution prompt, LengthDistribution output);

  std::vector<int32_t> RandomTokens(std::mt19937_64& random, int32_t count) const;
  void FillPrompt(int32_t tokens, std::vector<int32_t>* prompt);

  WorkloadOptions options_;
  LengthDistribution prompt_length_;
  LengthDistribution output_length_;
  int32_t first_token_ = 0;
  int32_t vocab_size_ = 0;
  int32_t max_context_tokens_ = 0;
  std::vector<TraceEntry> trace_;
  size_t next_line_ = 0;
  std::vector<std::vector<int32_t>> prefixes_;
  std::mt19937_64 random_;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_WORKLOAD_H_
