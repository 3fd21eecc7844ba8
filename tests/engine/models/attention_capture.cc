#include "tests/engine/models/attention_capture.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>

#include "engine/models/communicator.h"
#include "engine/models/rope_frequencies.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/embedding.h"
#include "kernels/half_float.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "tests/engine/models/decoder_harness.h"

namespace parallax::testing {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::TensorView;
using reference::AttentionProblem;

constexpr char kDefaultModel[] = "models/parallax-stories-14m";
constexpr int kTokens = 192;
constexpr int kQueryRows = 24;
// Where the correction outweighs the softmax output most, eight to ten times.
const std::vector<int> kLayers = {5, 6};

/// Keeps the output of every block: attention's and the MLP's of each layer in turn.
class RecordingCommunicator final : public Communicator {
 public:
  int size() const override { return 1; }
  void AllReduceSum(const TensorView& partial, const kernels::Stream& stream) override {
    const float* const values = partial.as<float>();
    outputs_.emplace_back(values, values + partial.num_elements());
  }
  const std::vector<std::vector<float>>& outputs() const { return outputs_; }

 private:
  std::vector<std::vector<float>> outputs_;
};

ConstTensorView VectorView(const std::vector<float>& values) {
  if (values.empty()) return {};
  return {values.data(), DType::kFloat32, {static_cast<int64_t>(values.size())}};
}

/// A layer's input, on the way to what its attention sees.
class LayerInput {
 public:
  LayerInput(const DecoderHarness& harness, const std::vector<int32_t>& tokens)
      : config_(harness.config()),
        weights_(harness.weights()),
        stream_(harness.stream()),
        tokens_(static_cast<int64_t>(tokens.size())),
        residual_(tokens_ * config_.hidden_size),
        rope_(tokens_ * config_.head_dim) {
    kernels::Embedding(weights_.embedding.view(), tokens, Matrix(residual_), stream_);
    kernels::FillRopeTable(RopeInverseFrequencies(config_.rope, config_.head_dim), Matrix(rope_));
  }

  /// Passes a block.
  void Add(const std::vector<float>& output) {
    for (size_t i = 0; i < output.size(); ++i) residual_[i] += output[i];
  }

  AttentionProblem AttentionOf(int layer_index, int query_rows) {
    const DecoderLayerWeights& layer = weights_.layers[layer_index];
    std::vector<float> hidden(residual_.size());
    kernels::RmsNorm(Matrix(residual_), VectorView(layer.input_norm), config_.rms_norm_eps,
                     Matrix(hidden), stream_);
    std::vector<float> qrkv(tokens_ * config_.qrkv_rows());
    kernels::Linear({.x = Matrix(hidden),
                     .weight = &layer.qrkv.weight,
                     .bias = VectorView(layer.qrkv.bias),
                     .y = Matrix(qrkv)},
                    stream_);
    std::vector<int32_t> positions(tokens_);
    std::iota(positions.begin(), positions.end(), 0);
    const int64_t r = config_.q_rows();
    const int64_t k = r + config_.r_rows();
    kernels::HeadNormRope({.q = {Heads(qrkv, 0, config_.num_heads), VectorView(layer.q_norm)},
                           .r = {Heads(qrkv, r, config_.num_heads), VectorView(layer.r_norm)},
                           .k = {Heads(qrkv, k, config_.num_kv_heads), VectorView(layer.k_norm)},
                           .norm_epsilon = config_.qk_norm_eps,
                           .table = Matrix(rope_),
                           .positions = positions},
                          stream_);
    AttentionProblem problem;
    problem.query_rows = query_rows;
    problem.context = static_cast<int>(tokens_);
    problem.query_heads = static_cast<int>(config_.num_heads);
    problem.kv_heads = static_cast<int>(config_.num_kv_heads);
    problem.head_dim = static_cast<int>(config_.head_dim);
    problem.scale = static_cast<float>(1.0 / std::sqrt(problem.head_dim));
    problem.q = Rounded(qrkv, 0, config_.q_rows(), query_rows);
    problem.r = Rounded(qrkv, r, config_.r_rows(), query_rows);
    problem.k = Rounded(qrkv, k, config_.kv_rows(), tokens_);
    problem.v = Rounded(qrkv, k + config_.kv_rows(), config_.kv_rows(), tokens_);
    return problem;
  }

  /// Throws unless the problem's solution, projected, is what the decoder's attention has put out.
  void CheckOutput(const AttentionProblem& problem, int layer_index,
                   const std::vector<float>& output) const {
    const std::vector<double> solution = reference::Attention(problem);
    std::vector<float> attended(solution.begin(), solution.end());
    std::vector<float> projected(problem.query_rows * config_.hidden_size);
    const LinearWeights& o = weights_.layers[layer_index].o;
    kernels::Linear({.x = Matrix(attended, problem.query_rows),
                     .weight = &o.weight,
                     .bias = VectorView(o.bias),
                     .y = Matrix(projected, problem.query_rows)},
                    stream_);
    const float* const last_rows = output.data() + output.size() - projected.size();
    double difference = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < projected.size(); ++i) {
      difference += std::pow(projected[i] - last_rows[i], 2);
      norm += std::pow(last_rows[i], 2);
    }
    constexpr double kRounding = 2e-2;  // of q and r, which the decoder keeps in float
    if (!(std::sqrt(difference / norm) < kRounding)) {
      throw std::runtime_error("the capture is not what the decoder computed");
    }
  }

 private:
  static TensorView Matrix(std::vector<float>& values, int64_t rows) {
    return {values.data(), DType::kFloat32, {rows, static_cast<int64_t>(values.size()) / rows}};
  }
  TensorView Matrix(std::vector<float>& values) const { return Matrix(values, tokens_); }

  TensorView Heads(std::vector<float>& qrkv, int64_t column, int64_t heads) const {
    TensorView view(qrkv.data() + column, DType::kFloat32, {tokens_, heads, config_.head_dim});
    view.strides = {config_.qrkv_rows(), config_.head_dim, 1};
    return view;
  }

  /// Columns of the last `rows` tokens.
  std::vector<float> Rounded(const std::vector<float>& qrkv, int64_t column, int64_t columns,
                             int64_t rows) const {
    std::vector<float> values;
    for (int64_t token = tokens_ - rows; token < tokens_; ++token) {
      for (int64_t i = column; i < column + columns; ++i) {
        const float value = qrkv[token * config_.qrkv_rows() + i];
        values.push_back(kernels::BFloat16ToFloat(kernels::FloatToBFloat16(value)));
      }
    }
    return values;
  }

  const ModelConfig& config_;
  const DecoderWeights& weights_;
  const kernels::Stream& stream_;
  const int64_t tokens_;
  std::vector<float> residual_;
  std::vector<float> rope_;
};

/// The beginning of the held-out text.
std::vector<int32_t> HeldOutTokens(int count) {
  std::ifstream file(std::string(kDefaultModel) + "/testdata/heldout.txt");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto tokenizer = LoadTokenizer(kDefaultModel);
  if (!tokenizer.ok()) throw std::runtime_error(tokenizer.status().ToString());
  auto ids = (*tokenizer)->Encode(text.substr(0, 8 * count), /*add_special_tokens=*/true);
  if (!ids.ok()) throw std::runtime_error(ids.status().ToString());
  if (ids->size() < static_cast<size_t>(count)) throw std::runtime_error("too little text");
  ids->resize(count);
  return *std::move(ids);
}

}  // namespace

std::vector<AttentionProblem> CaptureAttention(const std::string& model_folder,
                                               const std::vector<int32_t>& tokens,
                                               const std::vector<int>& layers, int query_rows) {
  const auto count = static_cast<int32_t>(tokens.size());
  RecordingCommunicator blocks;
  DecoderHarness harness(model_folder, {.kv_dtype = DType::kBFloat16,
                                        .max_num_batched_tokens = count,
                                        .max_context_tokens = count,
                                        .communicator = &blocks});
  HarnessSequence sequence{.tokens = tokens};
  harness.Run(sequence, count);
  LayerInput input(harness, tokens);
  std::vector<AttentionProblem> problems;
  int next_layer = 0;
  for (const int layer : layers) {
    for (; next_layer < layer; ++next_layer) {
      input.Add(blocks.outputs()[2 * next_layer]);
      input.Add(blocks.outputs()[2 * next_layer + 1]);
    }
    problems.push_back(input.AttentionOf(layer, query_rows));
    input.CheckOutput(problems.back(), layer, blocks.outputs()[2 * layer]);
  }
  return problems;
}

std::vector<AttentionProblem> CaptureDefaultModel() {
  return CaptureAttention(kDefaultModel, HeldOutTokens(kTokens), kLayers, kQueryRows);
}

}  // namespace parallax::testing
