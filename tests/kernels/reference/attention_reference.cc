#include "tests/kernels/reference/attention_reference.h"

#include <algorithm>
#include <cmath>

namespace parallax::reference {
namespace {

double Dot(const float* a, const float* b, int size) {
  double sum = 0.0;
  for (int i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

void AttendOne(const AttentionProblem& problem, int row, int head, double* out) {
  const int dim = problem.head_dim;
  const int kv_head = head / (problem.query_heads / problem.kv_heads);
  const int64_t query = (int64_t{row} * problem.query_heads + head) * dim;
  const int position = problem.context - problem.query_rows + row;
  const int first = problem.window > 0 ? std::max(0, position - problem.window + 1) : 0;
  const auto token = [&](int key) { return (int64_t{key} * problem.kv_heads + kv_head) * dim; };

  std::vector<double> weight;
  std::vector<double> probe;
  for (int key = first; key <= position; ++key) {
    const float* const k = problem.k.data() + token(key);
    weight.push_back(Dot(problem.q.data() + query, k, dim) * problem.scale);
    probe.push_back(problem.r.empty() ? 0.0 : Dot(problem.r.data() + query, k, dim));
  }
  const double max = *std::max_element(weight.begin(), weight.end());
  double total = 0.0;
  for (double& w : weight) total += w = std::exp(w - max);
  double mean_probe = 0.0;
  for (size_t j = 0; j < weight.size(); ++j) mean_probe += weight[j] / total * probe[j];
  std::fill(out, out + dim, 0.0);
  for (size_t j = 0; j < weight.size(); ++j) {
    const double combined = weight[j] / total * (1.0 + mean_probe - probe[j]);
    const float* const v = problem.v.data() + token(first + static_cast<int>(j));
    for (int d = 0; d < dim; ++d) out[d] += combined * v[d];
  }
}

}  // namespace

std::vector<double> Attention(const AttentionProblem& problem) {
  std::vector<double> out(problem.q.size());
  for (int row = 0; row < problem.query_rows; ++row) {
    for (int head = 0; head < problem.query_heads; ++head) {
      const size_t offset = (size_t(row) * problem.query_heads + head) * problem.head_dim;
      AttendOne(problem, row, head, out.data() + offset);
    }
  }
  return out;
}

}  // namespace parallax::reference
