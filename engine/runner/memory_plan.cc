#include "engine/runner/memory_plan.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/kv_cache/page.h"

namespace parallax {

namespace {

std::string Mebibytes(int64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

int64_t FixedBytes(const MemoryPlanRequest& request) {
  return request.weight_bytes + request.activation_bytes + request.probe_state_bytes;
}

std::string FixedParts(const MemoryPlanRequest& request) {
  return absl::StrCat("weights take ", Mebibytes(request.weight_bytes), ", activations ",
                      Mebibytes(request.activation_bytes), ", probe states ",
                      Mebibytes(request.probe_state_bytes));
}

absl::StatusOr<int32_t> CheckGivenPages(const MemoryPlanRequest& request,
                                        int64_t pages_per_sequence) {
  if (request.num_pages < pages_per_sequence) {
    return absl::ResourceExhaustedError(
        absl::StrCat(request.num_pages, " KV pages cannot hold one sequence of ",
                     request.max_context_tokens, " tokens, which needs ", pages_per_sequence,
                     ": raise the page count or lower the maximum ", "model length"));
  }
  const int64_t page_bytes = request.num_pages * request.page_bytes;
  if (request.free_bytes > 0 && FixedBytes(request) + page_bytes > request.free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the ", Mebibytes(request.free_bytes),
        " that are free do not suffice: ", FixedParts(request), ", and the ", request.num_pages,
        " KV pages asked for ", Mebibytes(page_bytes),
        ": lower the size of the KV cache, the batched tokens or the number of sequences"));
  }
  return request.num_pages;
}

std::optional<int64_t> ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

}  // namespace

absl::StatusOr<int32_t> PlanKvPages(const MemoryPlanRequest& request) {
  const int64_t pages_per_sequence = PagesForTokens(request.max_context_tokens);
  if (request.num_pages > 0) return CheckGivenPages(request, pages_per_sequence);
  const int64_t left = request.budget_bytes - FixedBytes(request);
  if (left < pages_per_sequence * request.page_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the memory budget of ", Mebibytes(request.budget_bytes), " is too small: ",
        FixedParts(request), ", and one sequence of ", request.max_context_tokens, " tokens needs ",
        Mebibytes(pages_per_sequence * request.page_bytes),
        " of KV pages: raise the budget, or lower the maximum model length, the batched tokens "
        "or the number of sequences"));
  }
  const int64_t useful = pages_per_sequence * request.max_num_seqs;
  return static_cast<int32_t>(
      std::min({left / request.page_bytes, useful, int64_t{std::numeric_limits<int32_t>::max()}}));
}

int64_t AvailableMemoryBytes() {
  int64_t available = int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0;
  for (std::string unit; meminfo >> key >> kibibytes; std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") available = kibibytes * 1024;
  }
  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const auto current = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit && current) available = std::min(available, std::max<int64_t>(0, *limit - *current));
  return available;
}

}  // namespace parallax
