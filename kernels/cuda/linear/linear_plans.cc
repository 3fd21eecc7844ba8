#include "kernels/cuda/linear_plans.h"

#include <sstream>
#include <utility>

#include "kernels/cuda/linear/linear_plan.h"
#include "kernels/cuda/linear/linear_runner.h"
#include "kernels/cuda/linear/linear_tuner.h"

namespace parallax::kernels::cuda {
namespace {

// Raised when plans of an older text must not be used any more.
constexpr int kTextVersion = 5;

}  // namespace

class LinearPlans::Impl {
 public:
  explicit Impl(const DeviceProperties& device) : runner_(device) {}

  LinearRunner& runner() { return runner_; }
  const LinearRunner& runner() const { return runner_; }
  std::string Serialize() const;
  bool Restore(std::string_view text);

 private:
  // What a plan text must agree with to be taken back.
  std::string Fingerprint() const {
    return "parallax-linear-plans " + std::to_string(kTextVersion) + " cublaslt " +
           std::to_string(runner_.cublaslt_version()) + " device " + runner_.device().name;
  }

  LinearRunner runner_;
};

// A line a plan: shape, gated, bucket; kernel, split; the words of the algorithm.
std::string LinearPlans::Impl::Serialize() const {
  std::ostringstream text;
  text << Fingerprint() << '\n';
  for (const auto& [key, plan] : runner_.plans()) {
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
  Plans plans;
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
    if (kernel < 0 || kernel > static_cast<int>(PlanKernel::kTile)) return false;
    plan.kernel = static_cast<PlanKernel>(kernel);
    plans.insert_or_assign(key, plan);
  }
  if (line != "end") return false;  // cut short
  runner_.AdoptAll(std::move(plans));
  return true;
}

LinearPlans::LinearPlans(const DeviceProperties& device) : impl_(std::make_unique<Impl>(device)) {}
LinearPlans::~LinearPlans() = default;

size_t LinearPlans::WorkspaceBytes(int max_tokens, int max_silu_outputs) {
  return LinearRunner::WorkspaceBytes(max_tokens, max_silu_outputs);
}

void LinearPlans::Tune(std::span<const LinearParams> layers, std::span<std::byte> workspace,
                       const Stream& stream) {
  LinearTuner(impl_->runner(), workspace, stream).Tune(layers);
}

void LinearPlans::Run(const LinearParams& params, std::span<std::byte> workspace,
                      const Stream& stream) {
  impl_->runner().Run(params, workspace, stream);
}

bool LinearPlans::RunsSkinny(const LinearParams& params) const {
  return impl_->runner().RunsSkinny(params);
}

std::string LinearPlans::Serialize() const { return impl_->Serialize(); }

bool LinearPlans::Restore(std::string_view text) { return impl_->Restore(text); }

}  // namespace parallax::kernels::cuda
