// An independent fp64 reference of the whole model: the oracle of the engine's logits.
//
// Written from the formulas (arXiv 2605.29157 for the attention), the slow way: every
// position attends to the whole prefix with explicit loops, nothing is cached, paged, fused or
// reordered. It shares no code with kernels/ or engine/. Weights are looked up by the Hugging
// Face names of ParallaxQwen3ForCausalLM, whichever convention the checkpoint under test has.
//
// Thread safety: immutable after construction.
#ifndef PARALLAX_TESTS_REFERENCE_REFERENCE_MODEL_H_
#define PARALLAX_TESTS_REFERENCE_REFERENCE_MODEL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace parallax::testing {

enum class ReferenceRope { kPlain, kLinear, kLlama3 };

struct ReferenceShape {
  int vocab = 0;
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int intermediate = 0;
  bool probe = true;
  bool qk_norm = true;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool tied = false;
  double norm_eps = 1e-6;
  double qk_norm_eps = 1e-6;
  double rope_theta = 10000;
  ReferenceRope rope = ReferenceRope::kPlain;
  double rope_factor = 1;
  double rope_low = 1;
  double rope_high = 4;
  double rope_original = 8192;
  std::vector<int> windows;  // per layer; 0 = full
};

/// A matrix [rows, columns], or a vector with rows = 1.
struct ReferenceTensor {
  int rows = 0;
  int columns = 0;
  std::vector<double> values;
};

class ReferenceModel {
 public:
  using Tensors = std::map<std::string, ReferenceTensor>;
  using Rows = std::vector<std::vector<double>>;

  ReferenceModel(ReferenceShape shape, Tensors tensors);

  /// Logits [tokens][vocab] of every position of one sequence.
  Rows Logits(const std::vector<int32_t>& tokens) const;

 private:
  struct Heads;

  std::vector<double> Linear(const std::string& name, const std::vector<double>& x,
                             bool bias) const;
  std::vector<double> Norm(const std::string& name, const std::vector<double>& x) const;
  void PrepareHead(const std::string& norm, int position, double* head) const;
  Heads Project(const std::string& attention, const std::vector<double>& x, int position) const;
  std::vector<double> Attend(const std::vector<Heads>& heads, int position, int window) const;
  double RopeFrequency(int i) const;

  const ReferenceShape shape_;
  const Tensors tensors_;
};

/// max|a - b| / max|b| over all elements; infinite if a holds anything that is not finite.
double RelativeError(const std::vector<float>& a, const std::vector<double>& b);

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_REFERENCE_REFERENCE_MODEL_H_
