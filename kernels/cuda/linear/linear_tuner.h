// Chooses the plans of a model's linear layers by timing.
//
// A shape's candidates are first timed on layers of that shape alone: quick, and enough to tell
// the good from the bad. What a layer costs among others is another matter: whether it starts
// while the one before it runs, which SMs that one leaves when, and what of its weights the L2
// holds. So the best few of every shape are then timed in the model's own order of layers.
//
// Thread safety: one thread at a time. Allocates and waits: for the program's start.
// Errors: KernelError.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_TUNER_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_TUNER_H_

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "kernels/cuda/linear/linear_plan.h"
#include "kernels/cuda/linear/linear_runner.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

class LinearTuner {
 public:
  // Uses all three, and they must outlive it.
  LinearTuner(LinearRunner& runner, std::span<std::byte> workspace, const Stream& stream)
      : runner_(runner), workspace_(workspace), stream_(stream) {}

  // As LinearPlans::Tune.
  void Tune(std::span<const LinearParams> layers);

 private:
  // The plans of a shape that are left to choose from, the fastest on its own first.
  using Finalists = std::map<PlanKey, std::vector<Plan>>;

  void TuneBucket(std::span<const LinearParams> layers);
  std::vector<Plan> Rank(std::span<const LinearParams> layers);
  void ChooseInChain(std::span<const LinearParams> chain, const Finalists& finalists);
  double ChooseStart(const Finalists& finalists, const std::function<double()>& time);
  void ChooseOne(const PlanKey& key, const std::vector<Plan>& plans,
                 const std::function<double()>& time, double& least);
  void Run(const LinearParams& layer) { runner_.Run(layer, workspace_, stream_); }
  bool Try(std::span<const LinearParams> layers, const Plan& plan);

  LinearRunner& runner_;
  const std::span<std::byte> workspace_;
  const Stream& stream_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_TUNER_H_
