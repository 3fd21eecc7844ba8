#include "kernels/cuda/linear_plans.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/linear/add_bias.h"
#include "kernels/cuda/linear/cublaslt.h"
#include "kernels/cuda/linear/launch_clock.h"
#include "kernels/cuda/silu_and_mul.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "LinearPlans";

// What cuBLASLt is documented to profit from on Hopper.
constexpr size_t kCublasLtWorkspaceBytes = size_t{32} << 20;
constexpr int kCandidates = 8;
// Layers that take turns in a timing: 16 weights of the smallest models fill an L2.
constexpr size_t kTimedLayers = 16;
// Raised when plans of an older text must not be used any more.
constexpr int kTextVersion = 2;
// Below, SkinnyLinear is not compared: TensorLinear computes no fewer columns.
constexpr int kMinTensorBucket = 8;

struct PlanKey {
  MatmulShape shape;
  bool gated = false;  // a product that SiluAndMul follows, or is part of
  int bucket = 0;      // the largest number of tokens the plan is for, a power of two

  auto operator<=>(const PlanKey&) const = default;
};

enum class PlanKernel : int { kCublasLt, kSkinny, kTensor };

struct Plan {
  PlanKernel kernel = PlanKernel::kCublasLt;
  cublasLtMatmulAlgo_t algorithm = {};
  TensorLinearSplit split = {};
};

int BucketOf(int tokens) { return static_cast<int>(std::bit_ceil(static_cast<unsigned>(tokens))); }

bool IsSilu(const LinearParams& p) { return p.epilogue == LinearEpilogue::kSiluAndMul; }

MatmulShape ShapeOf(const LinearParams& p) {
  return {.num_outputs = p.num_outputs,
          .num_inputs = p.num_inputs,
          .y_is_float = p.y_dtype == DType::kFloat32,
          .accumulates = p.epilogue == LinearEpilogue::kAccumulate,
          .has_bias = p.bias != nullptr && p.y_dtype == DType::kBFloat16};
}

PlanKey KeyOf(const LinearParams& p) { return {ShapeOf(p), IsSilu(p), BucketOf(p.tokens)}; }

void CheckAligned(const void* pointer, const char* operand) {
  Check(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, kOp, operand,
        "16-byte aligned; address modulo 16",
        static_cast<double>(reinterpret_cast<uintptr_t>(pointer) % 16));
}

void CheckParams(const LinearParams& p) {
  const int width = IsSilu(p) ? p.num_outputs / 2 : p.num_outputs;
  const int granule = IsSilu(p) ? 16 : 8;
  Check(p.x && p.weight && p.y, kOp, "x, weight, y", "given; null operands",
        !p.x + !p.weight + !p.y);
  Check(p.tokens >= 0, kOp, "tokens", "non-negative", p.tokens);
  Check(p.num_outputs > 0 && p.num_outputs % granule == 0, kOp, "num_outputs",
        IsSilu(p) ? "a positive multiple of 16" : "a positive multiple of 8", p.num_outputs);
  Check(p.num_inputs > 0 && p.num_inputs % 8 == 0, kOp, "num_inputs", "a positive multiple of 8",
        p.num_inputs);
  Check(p.x_stride == 0 || (p.x_stride >= p.num_inputs && p.x_stride % 8 == 0), kOp, "x_stride",
        "0, or a multiple of 8 no less than num_inputs", static_cast<double>(p.x_stride));
  Check(p.y_stride == 0 || (p.y_stride >= width && p.y_stride % 8 == 0), kOp, "y_stride",
        "0, or a multiple of 8 no less than y's width", static_cast<double>(p.y_stride));
  const bool is_float = p.y_dtype == DType::kFloat32;
  Check(is_float ? !IsSilu(p)
                 : p.y_dtype == DType::kBFloat16 && p.epilogue != LinearEpilogue::kAccumulate,
        kOp, "y_dtype", "bfloat16 (kStore, kSiluAndMul) or float32 (kStore, kAccumulate)",
        static_cast<double>(p.y_dtype));
  CheckAligned(p.x, "x");
  CheckAligned(p.weight, "weight");
  CheckAligned(p.bias, "bias");
  CheckAligned(p.y, "y");
}

}  // namespace

class LinearPlans::Impl {
 public:
  explicit Impl(const DeviceProperties& device) : device_(device) {}

  void Tune(std::span<const LinearParams> layers, std::span<std::byte> workspace,
            const Stream& stream);
  void Run(const LinearParams& params, std::span<std::byte> workspace, const Stream& stream);
  std::string Serialize() const;
  bool Restore(std::string_view text);

 private:
  // Few enough tokens, and a GPU, for SkinnyLinear.
  bool IsSkinny(const LinearParams& p) const {
    return device_.is_hopper() && p.tokens <= kMaxSkinnyTokens && p.num_inputs % 64 == 0;
  }

  // So many tokens, and a GPU, as TensorLinear is for.
  bool MayBeTensor(const LinearParams& p) const {
    return device_.is_hopper() && p.tokens >= 1 && p.tokens <= kMaxTensorTokens;
  }

  // What a plan text must agree with to be taken back.
  std::string Fingerprint() const {
    return "parallax-linear-plans " + std::to_string(kTextVersion) + " cublaslt " +
           std::to_string(library_.version()) + " device " + device_.name;
  }

  Matmul& MatmulOf(const MatmulShape& shape) {
    return matmuls_.try_emplace(shape, library_, shape).first->second;
  }

  void RunCublasLt(const LinearParams& params, std::span<std::byte> workspace,
                   const Stream& stream);
  void Multiply(const LinearParams& product, std::span<std::byte> workspace, const Stream& stream);
  void MultiplyAsProposed(const LinearParams& product, std::span<std::byte> workspace,
                          const Stream& stream);
  bool RunTensor(const LinearParams& params, const Stream& stream);
  const cublasLtMatmulAlgo_t& AlgorithmOf(const LinearParams& product);
  std::vector<Plan> Candidates(const PlanKey& key, const LinearParams& layer);
  void TuneBucket(std::span<const LinearParams> layers, int bucket, std::span<std::byte> workspace,
                  const Stream& stream);

  const DeviceProperties device_;
  CublasLt library_;
  std::map<MatmulShape, Matmul> matmuls_;
  std::map<PlanKey, Plan> plans_;
  // Algorithms for single numbers of tokens (in place of the bucket) that their bucket's plan
  // refused.
  std::map<PlanKey, cublasLtMatmulAlgo_t> exceptions_;
};

// False where the layer's plan is not TensorLinear, or is one that it does not take: plans come
// from files as well.
bool LinearPlans::Impl::RunTensor(const LinearParams& params, const Stream& stream) {
  if (!MayBeTensor(params)) return false;
  const auto found = plans_.find(KeyOf(params));
  if (found == plans_.end() || found->second.kernel != PlanKernel::kTensor) return false;
  if (!TensorLinearTakes(params, found->second.split, stream.device().index)) return false;
  TensorLinear(params, found->second.split, stream);
  return true;
}

// The one of the product's plan. A plan without one gets the first that cuBLASLt proposes.
const cublasLtMatmulAlgo_t& LinearPlans::Impl::AlgorithmOf(const LinearParams& product) {
  const PlanKey key = KeyOf(product);
  const auto found = plans_.find(key);
  if (found != plans_.end() && found->second.kernel == PlanKernel::kCublasLt) {
    return found->second.algorithm;
  }
  const auto candidates = MatmulOf(key.shape).Candidates(key.bucket, kCublasLtWorkspaceBytes, 1);
  return plans_.insert_or_assign(key, Plan{.algorithm = candidates.front()})
      .first->second.algorithm;
}

// REQUIRES: strides are given, and the workspace is large enough.
void LinearPlans::Impl::RunCublasLt(const LinearParams& params, std::span<std::byte> workspace,
                                    const Stream& stream) {
  LinearParams product = params;
  if (IsSilu(params)) {
    product.y = workspace.data() + kCublasLtWorkspaceBytes;
    product.y_stride = params.num_outputs;
  }
  Multiply(product, workspace.first(kCublasLtWorkspaceBytes), stream);
  if (params.bias != nullptr && params.y_dtype == DType::kFloat32) AddBias(params, stream);
  if (!IsSilu(params)) return;
  const Device device = stream.device();
  const ConstTensorView gate_up(product.y, DType::kBFloat16, {params.tokens, params.num_outputs},
                                device);
  TensorView out(params.y, DType::kBFloat16, {params.tokens, params.num_outputs / 2}, device);
  out.strides[0] = params.y_stride;
  SiluAndMul(gate_up, out, stream);
}

void LinearPlans::Impl::Multiply(const LinearParams& product, std::span<std::byte> workspace,
                                 const Stream& stream) {
  const MatmulShape shape = ShapeOf(product);
  const auto exception = exceptions_.find({shape, IsSilu(product), product.tokens});
  const cublasLtMatmulAlgo_t& algorithm =
      exception != exceptions_.end() ? exception->second : AlgorithmOf(product);
  if (MatmulOf(shape).Run(product, algorithm, workspace, stream)) return;
  MultiplyAsProposed(product, workspace, stream);
}

// By the first algorithm that takes this very number of tokens, from now on.
void LinearPlans::Impl::MultiplyAsProposed(const LinearParams& product,
                                           std::span<std::byte> workspace, const Stream& stream) {
  const MatmulShape shape = ShapeOf(product);
  Matmul& matmul = MatmulOf(shape);
  for (const cublasLtMatmulAlgo_t& algorithm :
       matmul.Candidates(product.tokens, workspace.size(), kCandidates)) {
    if (!matmul.Run(product, algorithm, workspace, stream)) continue;
    exceptions_.insert_or_assign({shape, IsSilu(product), product.tokens}, algorithm);
    return;
  }
  ThrowKernelError(kOp, "tokens",
                   "must be a number that cuBLASLt takes, is " + std::to_string(product.tokens));
}

void LinearPlans::Impl::Run(const LinearParams& params, std::span<std::byte> workspace,
                            const Stream& stream) {
  if (params.tokens == 0) return;
  if (RunTensor(params, stream)) return;
  if (IsSkinny(params)) return SkinnyLinear(params, stream);
  CheckParams(params);
  CheckAligned(workspace.data(), "workspace");
  CheckAtLeast(
      kOp, "workspace bytes", static_cast<int64_t>(workspace.size()),
      static_cast<int64_t>(WorkspaceBytes(params.tokens, IsSilu(params) ? params.num_outputs : 0)));
  LinearParams strided = params;
  if (strided.x_stride == 0) strided.x_stride = params.num_inputs;
  if (strided.y_stride == 0) {
    strided.y_stride = IsSilu(params) ? params.num_outputs / 2 : params.num_outputs;
  }
  RunCublasLt(strided, workspace, stream);
}

// What may run `layer`, of so many tokens as the bucket and the model allow.
std::vector<Plan> LinearPlans::Impl::Candidates(const PlanKey& key, const LinearParams& layer) {
  std::vector<Plan> plans;
  if (IsSkinny(layer)) {
    plans.push_back({.kernel = PlanKernel::kSkinny});
  } else {
    for (const cublasLtMatmulAlgo_t& algorithm :
         MatmulOf(key.shape).Candidates(key.bucket, kCublasLtWorkspaceBytes, kCandidates)) {
      plans.push_back({.algorithm = algorithm});
    }
  }
  if (key.bucket >= kMinTensorBucket && MayBeTensor(layer)) {
    for (const TensorLinearSplit& split : TensorLinearSplits(layer, device_.index)) {
      plans.push_back({.kernel = PlanKernel::kTensor, .split = split});
    }
  }
  return plans;
}

void LinearPlans::Impl::TuneBucket(std::span<const LinearParams> layers, int bucket,
                                   std::span<std::byte> workspace, const Stream& stream) {
  LinearParams first = layers.front();
  first.tokens = std::min(first.tokens, bucket);
  const PlanKey key{ShapeOf(first), IsSilu(first), bucket};
  const auto run = [&](LinearParams layer) {
    layer.tokens = first.tokens;
    Run(layer, workspace, stream);
  };
  // Restored. What its kernel brings to the device is loaded by a first run: this one.
  if (plans_.contains(key)) return run(first);
  const PlanKey refusal{key.shape, key.gated, first.tokens};  // where Run notes it
  const int launches = static_cast<int>(std::min(layers.size(), kTimedLayers));
  const std::vector<Plan> candidates = Candidates(key, first);
  Plan best = candidates.front();
  double best_time = std::numeric_limits<double>::infinity();
  for (const Plan& candidate : candidates) {
    // Each is timed by way of Run, as the plan that it may become: unless it refuses these tokens,
    // when Run takes another algorithm.
    plans_[key] = candidate;
    exceptions_.erase(refusal);
    run(first);
    if (exceptions_.contains(refusal)) continue;
    const double time =
        TimeLaunches(stream, [&] { std::for_each_n(layers.begin(), launches, run); });
    if (time < best_time) {
      best_time = time;
      best = candidate;
    }
  }
  plans_[key] = best;
  if (std::isfinite(best_time)) exceptions_.erase(refusal);  // a later candidate's
}

void LinearPlans::Impl::Tune(std::span<const LinearParams> layers, std::span<std::byte> workspace,
                             const Stream& stream) {
  std::map<std::pair<MatmulShape, bool>, std::vector<LinearParams>> by_shape;
  for (const LinearParams& layer : layers) {
    CheckParams(layer);
    by_shape[{ShapeOf(layer), IsSilu(layer)}].push_back(layer);
  }
  for (auto& [shape, group] : by_shape) {
    const auto fewer = [](const LinearParams& a, const LinearParams& b) {
      return a.tokens < b.tokens;
    };
    const LinearParams most = *std::max_element(group.begin(), group.end(), fewer);
    std::erase_if(group, [&](const LinearParams& layer) { return layer.tokens < most.tokens; });
    for (int bucket = 1; bucket < 2 * most.tokens; bucket *= 2) {
      TuneBucket(group, bucket, workspace, stream);
    }
  }
}

// A line a plan: shape, gated, bucket; kernel, split; the words of the algorithm.
std::string LinearPlans::Impl::Serialize() const {
  std::ostringstream text;
  text << Fingerprint() << '\n';
  for (const auto& [key, plan] : plans_) {
    const MatmulShape& shape = key.shape;
    text << shape.num_outputs << ' ' << shape.num_inputs << ' ' << shape.y_is_float << ' '
         << shape.accumulates << ' ' << shape.has_bias << ' ' << key.gated << ' ' << key.bucket
         << ' ' << static_cast<int>(plan.kernel) << ' ' << plan.split.cluster << ' '
         << plan.split.ctas_per_sm << ' ' << plan.split.keep_x;
    for (uint64_t word : plan.algorithm.data) text << ' ' << word;
    text << '\n';
  }
  text << "end\n";
  return text.str();
}

bool LinearPlans::Impl::Restore(std::string_view text) {
  std::istringstream lines{std::string(text)};
  std::string line;
  if (!std::getline(lines, line) || line != Fingerprint()) return false;
  std::map<PlanKey, Plan> plans;
  while (std::getline(lines, line) && line != "end") {
    std::istringstream fields(line);
    PlanKey key;
    MatmulShape& shape = key.shape;
    Plan plan;
    int kernel = 0;
    fields >> shape.num_outputs >> shape.num_inputs >> shape.y_is_float >> shape.accumulates >>
        shape.has_bias >> key.gated >> key.bucket >> kernel >> plan.split.cluster >>
        plan.split.ctas_per_sm >> plan.split.keep_x;
    for (uint64_t& word : plan.algorithm.data) fields >> word;
    if (!fields || !(fields >> std::ws).eof()) return false;
    if (kernel < 0 || kernel > static_cast<int>(PlanKernel::kTensor)) return false;
    plan.kernel = static_cast<PlanKernel>(kernel);
    plans.insert_or_assign(key, plan);
  }
  if (line != "end") return false;  // cut short
  plans.merge(plans_);
  plans_ = std::move(plans);
  return true;
}

LinearPlans::LinearPlans(const DeviceProperties& device) : impl_(std::make_unique<Impl>(device)) {}
LinearPlans::~LinearPlans() = default;

size_t LinearPlans::WorkspaceBytes(int max_tokens, int max_silu_outputs) {
  return kCublasLtWorkspaceBytes +
         sizeof(__nv_bfloat16) * static_cast<size_t>(max_tokens) * max_silu_outputs;
}

void LinearPlans::Tune(std::span<const LinearParams> layers, std::span<std::byte> workspace,
                       const Stream& stream) {
  impl_->Tune(layers, workspace, stream);
}

void LinearPlans::Run(const LinearParams& params, std::span<std::byte> workspace,
                      const Stream& stream) {
  impl_->Run(params, workspace, stream);
}

std::string LinearPlans::Serialize() const { return impl_->Serialize(); }

bool LinearPlans::Restore(std::string_view text) { return impl_->Restore(text); }

}  // namespace parallax::kernels::cuda
