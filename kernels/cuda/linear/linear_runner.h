// Runs linear layers, each by the plan of its shape and bucket. See kernels/cuda/linear_plans.h.
//
// Thread safety and errors: as LinearPlans.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_RUNNER_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_RUNNER_H_

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/linear/cublaslt.h"
#include "kernels/cuda/linear/linear_plan.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

using Plans = std::map<PlanKey, Plan>;

// Throws where LinearPlans does not take the layer.
void CheckLinearParams(const LinearParams& params);

class LinearRunner {
 public:
  explicit LinearRunner(const DeviceProperties& device) : device_(device) {}

  // Of Run: for a layer of so many outputs if it is gated, of 0 otherwise.
  static size_t WorkspaceBytes(int tokens, int silu_outputs);

  void Run(const LinearParams& params, std::span<std::byte> workspace, const Stream& stream);

  bool RunsSkinny(const LinearParams& params) const {
    return TensorPlanOf(params) == nullptr && IsSkinny(params);
  }

  // What may run the layer, never nothing.
  std::vector<Plan> Candidates(const LinearParams& layer);

  // Runs the layer by `plan`, which is its plan from now on. False where the plan refuses this
  // number of tokens, which then has an algorithm of its own.
  bool Try(const LinearParams& layer, const Plan& plan, std::span<std::byte> workspace,
           const Stream& stream);

  // One that takes the layer: a file's may not, as it may be of fewer tokens, or damaged.
  bool HasPlanFor(const LinearParams& layer) const;
  const Plan& PlanOf(const PlanKey& key) const { return plans_.at(key); }
  // Without running it. REQUIRES: neither a Try of `plan` with this key was refused, nor the last.
  void Adopt(const PlanKey& key, const Plan& plan) { plans_.insert_or_assign(key, plan); }

  const Plans& plans() const { return plans_; }
  // Over those there are.
  void AdoptAll(Plans plans);

  size_t cublaslt_version() const { return library_.version(); }
  const DeviceProperties& device() const { return device_; }

 private:
  // Few enough tokens, and a GPU, for SkinnyLinear.
  bool IsSkinny(const LinearParams& p) const {
    return device_.is_hopper() && p.tokens <= kMaxSkinnyTokens && p.num_inputs % 64 == 0;
  }

  // So many tokens, and a GPU, as TensorLinear is for.
  bool MayBeTensor(const LinearParams& p) const {
    return device_.is_hopper() && p.tokens >= 1 && p.tokens <= kMaxTensorTokens;
  }

  // And as TileLinear is for.
  bool MayBeTile(const LinearParams& p) const {
    return device_.is_hopper() && p.tokens > kMaxTensorTokens && p.tokens <= kMaxTileTokens;
  }

  Matmul& MatmulOf(const MatmulShape& shape) {
    return matmuls_.try_emplace(shape, library_, shape).first->second;
  }

  // Null where the layer's plan is not TileLinear, or it takes no such layer.
  const TileLinearSplit* TileSplitOf(const LinearParams& params);

  // Null where the layer's plan is not TensorLinear, or is one that it does not take.
  const Plan* TensorPlanOf(const LinearParams& params) const;
  void RunCublasLt(const LinearParams& params, std::span<std::byte> workspace,
                   const Stream& stream);
  void Multiply(const LinearParams& product, std::span<std::byte> workspace, const Stream& stream);
  void MultiplyAsProposed(const LinearParams& product, std::span<std::byte> workspace,
                          const Stream& stream);
  const cublasLtMatmulAlgo_t& AlgorithmOf(const LinearParams& product);

  const DeviceProperties device_;
  CublasLt library_;
  std::map<MatmulShape, Matmul> matmuls_;
  Plans plans_;
  // Algorithms for single numbers of tokens (in place of the bucket) that their bucket's plan
  // refuses.
  std::map<PlanKey, cublasLtMatmulAlgo_t> exceptions_;
  // The split expected to be TileLinear's fastest, for single numbers of tokens; or none.
  std::map<PlanKey, std::optional<TileLinearSplit>> tile_splits_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_RUNNER_H_
