#include "engine/kv_cache/kv_cache_pool.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/kv_cache/block_table.h"

namespace parallax {
namespace {

absl::Status CheckPositive(const char* name, int64_t value) {
  if (value > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("KV cache: %s is %d, not positive", name, value));
}

absl::Status Check(const KvCacheGeometry& geometry, int64_t budget_bytes, int64_t context) {
  absl::Status status = CheckPositive("num_layers", geometry.num_layers);
  status.Update(CheckPositive("num_kv_heads", geometry.num_kv_heads));
  status.Update(CheckPositive("head_dim", geometry.head_dim));
  status.Update(CheckPositive("element_bytes", geometry.element_bytes));
  status.Update(CheckPositive("the memory budget", budget_bytes));
  status.Update(CheckPositive("max_context_tokens", context));
  return status;
}

double MiB(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

int64_t PageBytes(const KvCacheGeometry& geometry) {
  return int64_t{2} * kPageTokens * geometry.num_layers * geometry.num_kv_heads *
         geometry.head_dim * geometry.element_bytes;
}

absl::StatusOr<int32_t> PagesForBudget(const KvCacheGeometry& geometry, int64_t budget_bytes,
                                       int32_t max_context_tokens) {
  if (absl::Status status = Check(geometry, budget_bytes, max_context_tokens); !status.ok()) {
    return status;
  }
  const int64_t page_bytes = PageBytes(geometry);
  const int64_t pages = budget_bytes / page_bytes;
  const int64_t needed = PagesForTokens(max_context_tokens);
  if (pages < needed) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the KV cache budget of %.1f MiB holds %d pages of %.3f MiB, but one sequence of %d tokens "
        "takes %d: raise the budget to %.1f MiB or lower max_context_tokens to %d",
        MiB(budget_bytes), pages, MiB(page_bytes), max_context_tokens, needed,
        MiB(needed * page_bytes), pages * kPageTokens));
  }
  return static_cast<int32_t>(
      std::min<int64_t>(pages, std::numeric_limits<int32_t>::max() / kPageTokens));
}

}  // namespace parallax
