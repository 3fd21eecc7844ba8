#include "tests/reference/reference_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace parallax::testing {

namespace {

// Four sums side by side: in fp64 their order is far below the bar, and the tests stay quick.
double Dot(const double* a, const double* b, int n) {
  double sum[4] = {};
  int i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int lane = 0; lane < 4; ++lane) sum[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < n; ++i) sum[0] += a[i] * b[i];
  return sum[0] + sum[1] + sum[2] + sum[3];
}

std::vector<double> RmsNorm(const double* x, int n, const std::vector<double>& weight,
                            double epsilon) {
  const double scale = 1 / std::sqrt(Dot(x, x, n) / n + epsilon);
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
  return y;
}

void Add(std::vector<double>& x, const std::vector<double>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

/// One position's heads, flattened: q and r [heads * head_dim], k and v [kv_heads * head_dim].
struct ReferenceModel::Heads {
  std::vector<double> q;
  std::vector<double> r;
  std::vector<double> k;
  std::vector<double> v;
};

ReferenceModel::ReferenceModel(ReferenceShape shape, Tensors tensors)
    : shape_(std::move(shape)), tensors_(std::move(tensors)) {}

std::vector<double> ReferenceModel::Linear(const std::string& name, const std::vector<double>& x,
                                           bool bias) const {
  const ReferenceTensor& w = tensors_.at(name + ".weight");
  std::vector<double> y(w.rows);
  for (int i = 0; i < w.rows; ++i)
    y[i] = Dot(&w.values[size_t(i) * w.columns], x.data(), w.columns);
  if (bias) Add(y, tensors_.at(name + ".bias").values);
  return y;
}

std::vector<double> ReferenceModel::Norm(const std::string& name,
                                         const std::vector<double>& x) const {
  return RmsNorm(x.data(), shape_.hidden, tensors_.at(name + ".weight").values, shape_.norm_eps);
}

double ReferenceModel::RopeFrequency(int i) const {
  const double base = std::pow(shape_.rope_theta, -2.0 * i / shape_.head_dim);
  if (shape_.rope == ReferenceRope::kLinear) return base / shape_.rope_factor;
  if (shape_.rope == ReferenceRope::kPlain) return base;
  const double wavelength = 2 * M_PI / base;
  if (wavelength < shape_.rope_original / shape_.rope_high) return base;
  if (wavelength > shape_.rope_original / shape_.rope_low) return base / shape_.rope_factor;
  const double smooth =
      (shape_.rope_original / wavelength - shape_.rope_low) / (shape_.rope_high - shape_.rope_low);
  return (1 - smooth) * base / shape_.rope_factor + smooth * base;
}

// Norm, then rotation of the pairs (i, i + D/2).
void ReferenceModel::PrepareHead(const std::string& norm, int position, double* head) const {
  const int half = shape_.head_dim / 2;
  if (shape_.qk_norm) {
    const std::vector<double> normed =
        RmsNorm(head, shape_.head_dim, tensors_.at(norm + ".weight").values, shape_.qk_norm_eps);
    std::copy(normed.begin(), normed.end(), head);
  }
  for (int i = 0; i < half; ++i) {
    const double angle = position * RopeFrequency(i);
    const double a = head[i];
    const double b = head[i + half];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

ReferenceModel::Heads ReferenceModel::Project(const std::string& attention,
                                              const std::vector<double>& x, int position) const {
  Heads heads;
  heads.q = Linear(attention + ".q_proj", x, shape_.qkv_bias);
  if (shape_.probe) heads.r = Linear(attention + ".r_proj", x, shape_.qkv_bias);
  heads.k = Linear(attention + ".k_proj", x, shape_.qkv_bias);
  heads.v = Linear(attention + ".v_proj", x, shape_.qkv_bias);
  for (int h = 0; h < shape_.heads; ++h) {
    PrepareHead(attention + ".q_norm", position, &heads.q[h * shape_.head_dim]);
    if (shape_.probe) PrepareHead(attention + ".r_norm", position, &heads.r[h * shape_.head_dim]);
  }
  for (int h = 0; h < shape_.kv_heads; ++h) {
    PrepareHead(attention + ".k_norm", position, &heads.k[h * shape_.head_dim]);
  }
  return heads;
}

// out = vbar - Cov_P(v, k) r = vbar - sum_j P_j (s2_j - E_P[s2]) v_j, all heads of one position.
std::vector<double> ReferenceModel::Attend(const std::vector<Heads>& heads, int position,
                                           int window) const {
  const int d = shape_.head_dim;
  const int first = window > 0 ? std::max(0, position - window + 1) : 0;
  std::vector<double> out(shape_.heads * d, 0.0);
  for (int h = 0; h < shape_.heads; ++h) {
    const int kv = h / (shape_.heads / shape_.kv_heads);
    std::vector<double> p;
    std::vector<double> s2;
    for (int j = first; j <= position; ++j) {
      const double* k = &heads[j].k[kv * d];
      p.push_back(Dot(&heads[position].q[h * d], k, d) / std::sqrt(double(d)));
      s2.push_back(shape_.probe ? Dot(&heads[position].r[h * d], k, d) : 0.0);
    }
    const double top = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - top);
    double mean = 0;
    for (size_t j = 0; j < p.size(); ++j) mean += (p[j] /= total) * s2[j];
    for (size_t j = 0; j < p.size(); ++j) {
      const double weight = p[j] * (1 - (s2[j] - mean));
      for (int i = 0; i < d; ++i) out[h * d + i] += weight * heads[first + j].v[kv * d + i];
    }
  }
  return out;
}

ReferenceModel::Rows ReferenceModel::Logits(const std::vector<int32_t>& tokens) const {
  const ReferenceTensor& embedding = tensors_.at("model.embed_tokens.weight");
  Rows x;
  for (const int32_t token : tokens) {
    const auto row = embedding.values.begin() + int64_t(token) * shape_.hidden;
    x.emplace_back(row, row + shape_.hidden);
  }
  for (int layer = 0; layer < shape_.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer);
    std::vector<Heads> heads;
    for (size_t n = 0; n < x.size(); ++n) {
      heads.push_back(
          Project(prefix + ".self_attn", Norm(prefix + ".input_layernorm", x[n]), int(n)));
    }
    for (size_t n = 0; n < x.size(); ++n) {
      Add(x[n], Linear(prefix + ".self_attn.o_proj", Attend(heads, int(n), shape_.windows[layer]),
                       shape_.o_bias));
      const std::vector<double> y = Norm(prefix + ".post_attention_layernorm", x[n]);
      std::vector<double> gate = Linear(prefix + ".mlp.gate_proj", y, shape_.mlp_bias);
      const std::vector<double> up = Linear(prefix + ".mlp.up_proj", y, shape_.mlp_bias);
      for (int i = 0; i < shape_.intermediate; ++i) gate[i] = Silu(gate[i]) * up[i];
      Add(x[n], Linear(prefix + ".mlp.down_proj", gate, shape_.mlp_bias));
    }
  }
  Rows logits;
  const std::string head = shape_.tied ? "model.embed_tokens" : "lm_head";
  for (const auto& row : x) logits.push_back(Linear(head, Norm("model.norm", row), false));
  return logits;
}

double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::fabs(a[i] - b[i]));
    largest = std::max(largest, std::fabs(b[i]));
  }
  return difference / largest;
}

}  // namespace parallax::testing
