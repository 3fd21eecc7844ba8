// A naive oracle of Parallax attention in double precision. It shares nothing with kernels/:
// dense keys and values, one query at a time, and the other form of the formula,
//   out = sum_j w_j v_j,   w_j = P_j * (1 + E_P[s2] - s2_j),   P = softmax(s1),
// which is vbar - Cov_P(v, k) r written out.
#ifndef PARALLAX_TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_
#define PARALLAX_TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_

#include <cstdint>
#include <vector>

namespace parallax::reference {

// One sequence. The last of query_rows sits at position context - 1.
struct AttentionProblem {
  int query_rows = 0;
  int context = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  double scale = 1.0;
  int window = 0;        // 0 = none
  std::vector<float> q;  // [query_rows, query_heads, head_dim]
  std::vector<float> r;  // same, or empty: softmax
  std::vector<float> k;  // [context, kv_heads, head_dim]
  std::vector<float> v;  // [context, kv_heads, head_dim]
};

// [query_rows, query_heads, head_dim].
std::vector<double> Attention(const AttentionProblem& problem);

}  // namespace parallax::reference

#endif  // PARALLAX_TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_
