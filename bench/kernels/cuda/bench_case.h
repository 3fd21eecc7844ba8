// One line of cases/*.txt: the shape of an attention call. cases.py reads the same lines.
//
// Thread safety: a value.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_BENCH_CASE_H_
#define PARALLAX_BENCH_KERNELS_CUDA_BENCH_CASE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace parallax::bench {

struct BenchCase {
  enum class Kind { kDecode, kPrefill };

  std::string text;  // the line, which names the case in results
  Kind kind = Kind::kDecode;
  std::vector<int32_t> context_len;  // keys of each sequence, this call's own included
  int new_tokens = 1;                // query rows of each sequence
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool warm = false;  // every launch uses the same KV

  int sequences() const { return static_cast<int>(context_len.size()); }
  int32_t max_context() const;
  size_t kv_bytes() const;  // K and V of the visible keys
  int64_t pages() const;    // of all sequences

  // Caches the launches rotate over, so that a launch finds its own out of L2, and launches
  // in one timed graph, so that its start does not count.
  int copies(size_t pool_bytes) const;
  int launches(size_t pool_bytes) const;

 private:
  size_t page_bytes() const;
};

// Errors: std::invalid_argument naming the line.
BenchCase ParseBenchCase(const std::string& line);

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_BENCH_CASE_H_
