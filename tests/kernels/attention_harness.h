// Runs attention problems through the op: lays sequences out over a paged cache whose unused
// slots are poison, in whatever batch, chunks and page order a test asks for.
#ifndef PARALLAX_TESTS_KERNELS_ATTENTION_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_ATTENTION_HARNESS_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/dtype.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::kernels {

struct ProblemShape {
  int query_rows = 1;
  int context = 1;
  int query_heads = 2;
  int kv_heads = 1;
  int head_dim = 64;
  int window = 0;
  bool probe = true;
};

// Normal random tensors; keys and values are rounded to `cache_dtype`, so that the oracle
// reads what the cache holds.
reference::AttentionProblem RandomProblem(const ProblemShape& shape, DType cache_dtype,
                                          std::mt19937& rng);

struct HarnessOptions {
  DType cache_dtype = DType::kFloat32;
  int threads = 2;
  uint32_t page_order_seed = 0;  // physical pages are shuffled with it
  // Every sequence's query rows go through in calls of at most this many; 0 = all in one.
  int chunk = 0;
};

// Runs all problems as one batch (they share heads, head_dim, window, probe) and returns each
// one's out, [query_rows, query_heads, head_dim].
std::vector<std::vector<float>> RunAttention(
    const std::vector<reference::AttentionProblem>& problems, const HarnessOptions& options);

// max |a - b| / max |b|.
double RelativeError(const std::vector<float>& a, const std::vector<double>& b);

}  // namespace parallax::kernels

#endif  // PARALLAX_TESTS_KERNELS_ATTENTION_HARNESS_H_
