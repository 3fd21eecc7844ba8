#include "kernels/cuda/linear/linear_runner.h"

#include <string>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/linear/add_bias.h"
#include "kernels/cuda/linear/linear_params.h"
#include "kernels/cuda/silu_and_mul.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "LinearPlans";

// What cuBLASLt is documented to profit from on Hopper.
constexpr size_t kCublasLtWorkspaceBytes = size_t{32} << 20;
constexpr int kCandidates = 8;
// One token alone is SkinnyLinear's: chains were up to 8 % faster, and never slower by 2 %.
constexpr int kMinTensorBucket = 2;

}  // namespace

void CheckLinearParams(const LinearParams& p) {
  Check(p.tokens >= 0, kOp, "tokens", "non-negative", p.tokens);
  CheckLayer(kOp, p);
}

const Plan* LinearRunner::TensorPlanOf(const LinearParams& params) const {
  if (!MayBeTensor(params)) return nullptr;
  const auto found = plans_.find(KeyOf(params));
  if (found == plans_.end() || found->second.kernel != PlanKernel::kTensor) return nullptr;
  return TensorLinearTakes(params, found->second.split, device_.index) ? &found->second : nullptr;
}

const TileLinearSplit* LinearRunner::TileSplitOf(const LinearParams& params) {
  if (!MayBeTile(params)) return nullptr;
  const PlanKey bucket = KeyOf(params);
  const auto found = plans_.find(bucket);
  if (found == plans_.end() || found->second.kernel != PlanKernel::kTile) return nullptr;
  const PlanKey key{bucket.shape, bucket.gated, params.tokens};
  auto known = tile_splits_.find(key);
  if (known == tile_splits_.end()) {
    const std::vector<TileLinearSplit> splits = TileLinearSplits(params, device_.index);
    known = tile_splits_.try_emplace(key).first;
    if (!splits.empty()) known->second = splits.front();
  }
  return known->second ? &*known->second : nullptr;
}

bool LinearRunner::HasPlanFor(const LinearParams& layer) const {
  const auto found = plans_.find(KeyOf(layer));
  if (found == plans_.end()) return false;
  switch (found->second.kernel) {
    case PlanKernel::kTensor:
      return TensorPlanOf(layer) != nullptr;
    case PlanKernel::kTile:
      return MayBeTile(layer);
    default:
      return true;
  }
}

// The one of the product's plan. Without a plan it is the first that cuBLASLt proposes, from now on;
// where the plan is another kernel's, which refuses this number of tokens, for that number alone.
const cublasLtMatmulAlgo_t& LinearRunner::AlgorithmOf(const LinearParams& product) {
  const PlanKey key = KeyOf(product);
  const auto found = plans_.find(key);
  if (found != plans_.end() && found->second.kernel == PlanKernel::kCublasLt) {
    return found->second.algorithm;
  }
  const auto candidates = MatmulOf(key.shape).Candidates(key.bucket, kCublasLtWorkspaceBytes, 1);
  if (found == plans_.end()) {
    return plans_.emplace(key, Plan{.algorithm = candidates.front()}).first->second.algorithm;
  }
  const PlanKey exception{key.shape, key.gated, product.tokens};
  return exceptions_.insert_or_assign(exception, candidates.front()).first->second;
}

// REQUIRES: strides are given, and the workspace is large enough.
void LinearRunner::RunCublasLt(const LinearParams& params, std::span<std::byte> workspace,
                               const Stream& stream) {
  LinearParams product = params;
  if (IsGated(params)) {
    product.y = workspace.data() + kCublasLtWorkspaceBytes;
    product.y_stride = params.num_outputs;
  }
  Multiply(product, workspace.first(kCublasLtWorkspaceBytes), stream);
  if (params.bias != nullptr && params.y_dtype == DType::kFloat32) AddBias(params, stream);
  if (!IsGated(params)) return;
  const Device device = stream.device();
  const ConstTensorView gate_up(product.y, DType::kBFloat16, {params.tokens, params.num_outputs},
                                device);
  TensorView out(params.y, DType::kBFloat16, {params.tokens, params.num_outputs / 2}, device);
  out.strides[0] = params.y_stride;
  SiluAndMul(gate_up, out, stream);
}

void LinearRunner::Multiply(const LinearParams& product, std::span<std::byte> workspace,
                            const Stream& stream) {
  const MatmulShape shape = ShapeOf(product);
  const auto exception = exceptions_.find({shape, IsGated(product), product.tokens});
  const cublasLtMatmulAlgo_t& algorithm =
      exception != exceptions_.end() ? exception->second : AlgorithmOf(product);
  if (MatmulOf(shape).Run(product, algorithm, workspace, stream)) return;
  MultiplyAsProposed(product, workspace, stream);
}

// By the first algorithm that takes this very number of tokens, from now on.
void LinearRunner::MultiplyAsProposed(const LinearParams& product, std::span<std::byte> workspace,
                                      const Stream& stream) {
  const MatmulShape shape = ShapeOf(product);
  Matmul& matmul = MatmulOf(shape);
  for (const cublasLtMatmulAlgo_t& algorithm :
       matmul.Candidates(product.tokens, workspace.size(), kCandidates)) {
    if (!matmul.Run(product, algorithm, workspace, stream)) continue;
    exceptions_.insert_or_assign({shape, IsGated(product), product.tokens}, algorithm);
    return;
  }
  ThrowKernelError(kOp, "tokens",
                   "must be a number that cuBLASLt takes, is " + std::to_string(product.tokens));
}

void LinearRunner::Run(const LinearParams& params, std::span<std::byte> workspace,
                       const Stream& stream) {
  if (params.tokens == 0) return;
  if (const Plan* plan = TensorPlanOf(params)) return TensorLinear(params, plan->split, stream);
  if (IsSkinny(params)) return SkinnyLinear(params, stream);
  if (const TileLinearSplit* split = TileSplitOf(params)) return TileLinear(params, *split, stream);
  CheckLinearParams(params);
  CheckAligned(kOp, workspace.data(), "workspace");
  const size_t needed = WorkspaceBytes(params.tokens, IsGated(params) ? params.num_outputs : 0);
  CheckAtLeast(kOp, "workspace bytes", static_cast<int64_t>(workspace.size()),
               static_cast<int64_t>(needed));
  LinearParams strided = params;
  strided.x_stride = XStride(params);
  strided.y_stride = YStride(params);
  RunCublasLt(strided, workspace, stream);
}

std::vector<Plan> LinearRunner::Candidates(const LinearParams& layer) {
  const PlanKey key = KeyOf(layer);
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
  if (MayBeTile(layer) && !TileLinearSplits(layer, device_.index).empty()) {
    plans.push_back({.kernel = PlanKernel::kTile});
  }
  return plans;
}

bool LinearRunner::Try(const LinearParams& layer, const Plan& plan, std::span<std::byte> workspace,
                       const Stream& stream) {
  const PlanKey key = KeyOf(layer);
  const PlanKey refusal{key.shape, key.gated, layer.tokens};  // where Run notes it
  plans_.insert_or_assign(key, plan);
  exceptions_.erase(refusal);
  Run(layer, workspace, stream);
  return !exceptions_.contains(refusal);
}

void LinearRunner::AdoptAll(Plans plans) {
  plans.merge(plans_);
  plans_ = std::move(plans);
}

size_t LinearRunner::WorkspaceBytes(int tokens, int silu_outputs) {
  return kCublasLtWorkspaceBytes +
         sizeof(__nv_bfloat16) * static_cast<size_t>(tokens) * silu_outputs;
}

}  // namespace parallax::kernels::cuda
