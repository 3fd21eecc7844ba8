#include "bench/server/loadgen/workload.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace parallax::loadgen {
namespace {

// Small ids are control and byte tokens in every common vocabulary.
constexpr int32_t kFirstOrdinaryToken = 300;

absl::Status BadLine(size_t line, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat("trace line ", line, ": ", problem));
}

absl::StatusOr<int32_t> PositiveField(const nlohmann::json& entry, const char* name, size_t line) {
  const auto it = entry.find(name);
  if (it == entry.end() || !it->is_number_integer()) {
    return BadLine(line, absl::StrCat(name, ": an integer is required"));
  }
  const int64_t value = it->get<int64_t>();
  if (value < 1 || value > (1 << 24)) {
    return BadLine(line, absl::StrCat(name, ": ", value, " is outside [1, 16777216]"));
  }
  return static_cast<int32_t>(value);
}

absl::Status ReadTokenIds(const nlohmann::json& ids, size_t line, TraceEntry* entry) {
  if (!ids.is_array() || ids.empty()) return BadLine(line, "token_ids: a non-empty array");
  for (const nlohmann::json& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      return BadLine(line, absl::StrCat("token_ids: ", id.dump(), " is not a token id"));
    }
    entry->token_ids.push_back(id.get<int32_t>());
  }
  entry->prompt_tokens = static_cast<int32_t>(entry->token_ids.size());
  return absl::OkStatus();
}

absl::StatusOr<TraceEntry> ParseLine(const std::string& text, size_t line) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadLine(line, "not a JSON object");
  TraceEntry entry;
  if (const auto it = json.find("timestamp"); it != json.end()) {
    if (!it->is_number() || it->get<double>() < 0.0) {
      return BadLine(line, absl::StrCat("timestamp: ", it->dump(), " is not a time in seconds"));
    }
    entry.timestamp_seconds = it->get<double>();
  }
  if (const auto it = json.find("token_ids"); it != json.end()) {
    if (absl::Status status = ReadTokenIds(*it, line, &entry); !status.ok()) return status;
  } else {
    absl::StatusOr<int32_t> tokens = PositiveField(json, "prompt_tokens", line);
    if (!tokens.ok()) return tokens.status();
    entry.prompt_tokens = *tokens;
  }
  absl::StatusOr<int32_t> output = PositiveField(json, "output_tokens", line);
  if (!output.ok()) return output.status();
  entry.output_tokens = *output;
  return entry;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("trace \"", path, "\": cannot be opened"));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::Status CheckShare(const char* option, double share) {
  if (share >= 0.0 && share <= 1.0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, ": ", share, " is outside [0, 1]"));
}

absl::Status CheckOptions(const WorkloadOptions& options) {
  if (absl::Status s = CheckShare("shared_prefix_share", options.shared_prefix_share); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckShare("cancel_share", options.cancel_share); !s.ok()) return s;
  if (options.shared_prefix_groups < 1 || options.shared_prefix_groups > 65536) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shared_prefix_groups: ", options.shared_prefix_groups, " is outside [1, 65536]"));
  }
  if (options.shared_prefix_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared_prefix_tokens: ", options.shared_prefix_tokens, " is negative"));
  }
  return absl::OkStatus();
}

absl::Status CheckTraceFits(const std::vector<TraceEntry>& trace, int32_t vocab_size,
                            int32_t max_context_tokens) {
  for (size_t i = 0; i < trace.size(); ++i) {
    const TraceEntry& entry = trace[i];
    const int64_t total = int64_t{entry.prompt_tokens} + entry.output_tokens;
    if (total > max_context_tokens) {
      return BadLine(i + 1, absl::StrCat(total, " tokens are more than the model's context of ",
                                         max_context_tokens));
    }
    for (const int32_t id : entry.token_ids) {
      if (id >= vocab_size) return BadLine(i + 1, absl::StrCat("token_ids: ", id, " is unknown"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TraceEntry>> ParseTrace(const std::string& text) {
  std::vector<TraceEntry> entries;
  std::istringstream lines(text);
  std::string line;
  for (size_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<TraceEntry> entry = ParseLine(line, number);
    if (!entry.ok()) return entry.status();
    if (!entries.empty()) {
      const std::optional<double>& last = entries.back().timestamp_seconds;
      if (last.has_value() != entry->timestamp_seconds.has_value()) {
        return BadLine(number, "timestamp: in all lines or in none");
      }
      if (last.has_value() && *entry->timestamp_seconds < *last) {
        return BadLine(number, "timestamp: earlier than the line before");
      }
    }
    entries.push_back(*std::move(entry));
  }
  if (entries.empty()) return absl::InvalidArgumentError("trace: no lines");
  return entries;
}

absl::StatusOr<Workload> Workload::Create(const WorkloadOptions& options, int32_t vocab_size,
                                          int32_t max_context_tokens) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  absl::StatusOr<LengthDistribution> prompt = LengthDistribution::Parse(options.prompt_tokens);
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<LengthDistribution> output = LengthDistribution::Parse(options.output_tokens);
  if (!output.ok()) return output.status();

  Workload workload(options, *std::move(prompt), *std::move(output));
  workload.vocab_size_ = vocab_size;
  workload.max_context_tokens_ = max_context_tokens;
  workload.first_token_ = vocab_size > 2 * kFirstOrdinaryToken ? kFirstOrdinaryToken : 0;
  if (!options.trace_file.empty()) {
    absl::StatusOr<std::string> text = ReadFile(options.trace_file);
    if (!text.ok()) return text.status();
    absl::StatusOr<std::vector<TraceEntry>> trace = ParseTrace(*text);
    if (!trace.ok()) return trace.status();
    absl::Status fits = CheckTraceFits(*trace, vocab_size, max_context_tokens);
    if (!fits.ok()) return fits;
    workload.trace_ = *std::move(trace);
  } else {
    const int64_t longest = int64_t{workload.prompt_length_.max()} + workload.output_length_.max();
    if (longest > max_context_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt_tokens ", options.prompt_tokens, " and output_tokens ", options.output_tokens,
          " can reach ", longest, " tokens; the model's context is ", max_context_tokens));
    }
  }
  std::mt19937_64 prefix_random(options.seed ^ 0x9e3779b97f4a7c15u);
  for (int32_t i = 0; i < options.shared_prefix_groups && options.shared_prefix_tokens > 0; ++i) {
    workload.prefixes_.push_back(
        workload.RandomTokens(prefix_random, options.shared_prefix_tokens));
  }
  return workload;
}

Workload::Workload(const WorkloadOptions& options, LengthDistribution prompt,
                   LengthDistribution output)
    : options_(options),
      prompt_length_(std::move(prompt)),
      output_length_(std::move(output)),
      random_(options.seed) {}

bool Workload::has_timed_trace() const {
  return !trace_.empty() && trace_.front().timestamp_seconds.has_value();
}

std::vector<int32_t> Workload::RandomTokens(std::mt19937_64& random, int32_t count) const {
  std::uniform_int_distribution<int32_t> token(first_token_, vocab_size_ - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& id : tokens) id = token(random);
  return tokens;
}

void Workload::FillPrompt(int32_t tokens, std::vector<int32_t>* prompt) {
  prompt->clear();
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  if (!prefixes_.empty() && unit(random_) < options_.shared_prefix_share) {
    const size_t group = std::uniform_int_distribution<size_t>(0, prefixes_.size() - 1)(random_);
    const std::vector<int32_t>& prefix = prefixes_[group];
    const size_t kept = std::min<size_t>(prefix.size(), tokens);
    prompt->assign(prefix.begin(), prefix.begin() + kept);
  }
  const std::vector<int32_t> rest =
      RandomTokens(random_, tokens - static_cast<int32_t>(prompt->size()));
  prompt->insert(prompt->end(), rest.begin(), rest.end());
}

PlannedRequest Workload::Next() {
  PlannedRequest request;
  if (trace_.empty()) {
    FillPrompt(prompt_length_.Sample(random_), &request.prompt);
    request.output_tokens = output_length_.Sample(random_);
  } else {
    const TraceEntry& entry = trace_[next_line_++ % trace_.size()];
    request.prompt = entry.token_ids;
    if (request.prompt.empty()) FillPrompt(entry.prompt_tokens, &request.prompt);
    request.output_tokens = entry.output_tokens;
  }
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  if (unit(random_) < options_.cancel_share) {
    request.cancel_after =
        std::uniform_int_distribution<int32_t>(0, request.output_tokens - 1)(random_);
  }
  return request;
}

}  // namespace parallax::loadgen
