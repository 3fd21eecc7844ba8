#include "kernels/cuda/linear/linear_tuner.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/linear/launch_clock.h"
#include "kernels/cuda/linear/linear_params.h"

namespace parallax::kernels::cuda {
namespace {

// Layers of one shape that take turns in a timing, lest the L2 holds their weights: until these are
// several times as large, or so many that it is full with those of the smallest models. A few hide
// what starting them costs.
constexpr size_t kTimedWeightBytes = size_t{256} << 20;
constexpr size_t kLeastTimedLayers = 4;
constexpr size_t kMostTimedLayers = 16;
constexpr int kReplays = 4;
// A chain is long beside the L2 and beside what starting it costs. It is replayed more often: its
// times differ by less.
constexpr size_t kChainWeightBytes = size_t{512} << 20;
constexpr int kChainReplays = 12;
// How much less than the least time so far counts as less, lest one start's plans differ from the
// next one's by chance.
constexpr double kClearlyLess = 0.995;
// And for another kernel: the chain lacks what stands between the layers of a step, attention and
// norms, beside which the one may start earlier than the other.
constexpr double kWorthAnotherKernel = 0.98;
// What a shape keeps to choose from in the chain: the best splits of TensorLinear, or TileLinear;
// the best of all else; and of these what is not far behind.
constexpr int kTensorFinalists = 3;
constexpr int kOtherFinalists = 1;
constexpr double kFarBehind = 1.25;

size_t WeightBytes(const LinearParams& layer) {
  return sizeof(__nv_bfloat16) * layer.num_outputs * layer.num_inputs;
}

// REQUIRES: all are of one shape.
std::span<const LinearParams> TakeTurns(std::span<const LinearParams> layers) {
  const size_t enough = kTimedWeightBytes / WeightBytes(layers.front()) + 1;
  const size_t turns = std::clamp(enough, kLeastTimedLayers, kMostTimedLayers);
  return layers.first(std::min(layers.size(), turns));
}

struct TimedPlan {
  Plan plan;
  double time = 0.0;
};

// One of the kernels that start early, with the weights.
bool IsTensor(const Plan& plan) {
  return plan.kernel == PlanKernel::kTensor || plan.kernel == PlanKernel::kTile;
}

std::vector<Plan> BestOf(std::vector<TimedPlan> timed) {
  std::stable_sort(timed.begin(), timed.end(),
                   [](const auto& a, const auto& b) { return a.time < b.time; });
  std::vector<Plan> best;
  int places[] = {kOtherFinalists, kTensorFinalists};
  for (const TimedPlan& candidate : timed) {
    if (candidate.time > kFarBehind * timed.front().time) break;
    if (places[IsTensor(candidate.plan)]-- > 0) best.push_back(candidate.plan);
  }
  return best;
}

// Those of each shape that have the most tokens: with fewer the others' buckets would not fit.
std::vector<LinearParams> WithMostTokens(std::span<const LinearParams> layers) {
  std::map<std::pair<MatmulShape, bool>, int> most;
  for (const LinearParams& layer : layers) {
    int& tokens = most[{ShapeOf(layer), IsGated(layer)}];
    tokens = std::max(tokens, layer.tokens);
  }
  std::vector<LinearParams> kept(layers.begin(), layers.end());
  std::erase_if(kept, [&](const LinearParams& layer) {
    return layer.tokens < most[{ShapeOf(layer), IsGated(layer)}];
  });
  return kept;
}

// Those that a plan of the bucket can be for, with as many tokens as it may have; beyond
// TensorLinear's, every other one of a shape with three quarters of them. A long prompt's chunks
// have exactly the most, a chunk beside decodes has fewer, and by how much a layer gets faster with
// fewer differs: cuBLASLt's best for 480 took longer for 384, when TileLinear took a fifth less.
std::vector<LinearParams> InBucket(std::span<const LinearParams> layers, int bucket) {
  std::vector<LinearParams> kept;
  std::map<PlanKey, int> numbers;
  for (const LinearParams& layer : layers) {
    if (layer.tokens == 0 || BucketOf(layer.tokens) < bucket) continue;
    kept.push_back(layer);
    LinearParams& own = kept.back();
    own.tokens = std::min(layer.tokens, bucket);
    const bool has_fewer = numbers[KeyOf(own)]++ % 2 == 1 && bucket > kMaxTensorTokens;
    if (has_fewer) own.tokens = std::min(own.tokens, bucket / 4 * 3);
  }
  return kept;
}

// The first layers, up to where the model's first shape comes again and they are enough; and the
// last one if it is of another shape: the head, where it has so many tokens.
std::vector<LinearParams> ChainOf(std::span<const LinearParams> layers) {
  std::vector<LinearParams> chain;
  size_t bytes = 0;
  for (const LinearParams& layer : layers) {
    const bool starts_again = !chain.empty() && KeyOf(layer) == KeyOf(chain.front());
    if (bytes >= kChainWeightBytes && starts_again) break;
    chain.push_back(layer);
    bytes += WeightBytes(layer);
  }
  const bool has_last = std::ranges::any_of(
      chain, [&](const LinearParams& layer) { return KeyOf(layer) == KeyOf(layers.back()); });
  if (!has_last) chain.push_back(layers.back());
  return chain;
}

}  // namespace

void LinearTuner::Tune(std::span<const LinearParams> layers) {
  int most_tokens = 0;
  for (const LinearParams& layer : layers) {
    CheckLinearParams(layer);
    most_tokens = std::max(most_tokens, layer.tokens);
  }
  const std::vector<LinearParams> timed = WithMostTokens(layers);
  for (int bucket = 1; bucket < 2 * most_tokens; bucket *= 2) TuneBucket(InBucket(timed, bucket));
}

void LinearTuner::TuneBucket(std::span<const LinearParams> layers) {
  std::map<PlanKey, std::vector<LinearParams>> shapes;
  for (const LinearParams& layer : layers) shapes[KeyOf(layer)].push_back(layer);
  Finalists finalists;
  for (const auto& [key, group] : shapes) {
    if (runner_.HasPlanFor(group.front())) {
      // Restored. What its kernel brings to the device is loaded by a first run: this one.
      Run(group.front());
      continue;
    }
    std::vector<Plan> plans = Rank(group);
    Try(group, plans.front());
    if (plans.size() > 1) finalists.emplace(key, std::move(plans));
  }
  ChooseInChain(ChainOf(layers), finalists);
}

// Whether `plan`, which is from now on that of these layers of one shape, takes all their numbers
// of tokens; the first two have them (InBucket). Each is tried, also behind a refusal: what an
// earlier plan's refusal of it left behind would be run in place of this one.
bool LinearTuner::Try(std::span<const LinearParams> layers, const Plan& plan) {
  bool takes = true;
  for (const LinearParams& layer : layers.first(std::min<size_t>(layers.size(), 2))) {
    takes = runner_.Try(layer, plan, workspace_, stream_) && takes;
  }
  return takes;
}

// The best candidates for layers of one shape. One that refuses these tokens, when Run takes
// another algorithm, is returned only where all do.
std::vector<Plan> LinearTuner::Rank(std::span<const LinearParams> layers) {
  const std::span<const LinearParams> turns = TakeTurns(layers);
  const std::vector<Plan> candidates = runner_.Candidates(layers.front());
  std::vector<TimedPlan> timed;
  for (const Plan& candidate : candidates) {
    if (!Try(layers, candidate)) continue;
    const auto launch = [&] {
      for (const LinearParams& layer : turns) Run(layer);
    };
    timed.push_back({candidate, TimeLaunches(stream_, kReplays, launch)});
  }
  if (timed.empty()) return {candidates.front()};
  return BestOf(std::move(timed));
}

// REQUIRES: every layer has a plan. One pass over the shapes: each takes the plan that is fastest
// with what the others have by then. A shape that the chain lacks keeps what it has.
void LinearTuner::ChooseInChain(std::span<const LinearParams> chain, const Finalists& finalists) {
  Finalists contested;
  for (const LinearParams& layer : chain) {
    const auto found = finalists.find(KeyOf(layer));
    if (found != finalists.end()) contested.insert(*found);
  }
  if (contested.empty()) return;
  const auto launch = [&] {
    for (const LinearParams& layer : chain) Run(layer);
  };
  const auto time = [&] { return TimeLaunches(stream_, kChainReplays, launch); };
  double least = ChooseStart(contested, time);
  for (const auto& [key, plans] : contested) ChooseOne(key, plans, time, least);
}

// Adopts the best start, and returns its time. A kernel that starts early gains only behind one
// that lets it: to change one shape at a time may never get from one family of kernels to the
// other. So the best without TensorLinear and TileLinear, the best of each shape and the best with
// them are compared.
double LinearTuner::ChooseStart(const Finalists& finalists, const std::function<double()>& time) {
  const auto adopt_all = [&](const std::map<PlanKey, Plan>& plans) {
    for (const auto& [key, plan] : plans) runner_.Adopt(key, plan);
  };
  // Of one family, if there is one of it: else the best of all.
  const auto best_of = [&](const std::function<bool(const Plan&)>& is_wanted) {
    std::map<PlanKey, Plan> best;
    for (const auto& [key, plans] : finalists) {
      const auto found = std::find_if(plans.begin(), plans.end(), is_wanted);
      best.emplace(key, found != plans.end() ? *found : plans.front());
    }
    return best;
  };
  std::map<PlanKey, Plan> best = best_of([](const Plan& plan) { return !IsTensor(plan); });
  adopt_all(best);
  double least = time();
  for (auto& start : {best_of([](const Plan&) { return true; }), best_of(IsTensor)}) {
    adopt_all(start);
    const double start_time = time();
    if (start_time < kWorthAnotherKernel * least) {
      least = start_time;
      best = start;
    }
  }
  adopt_all(best);
  return least;
}

void LinearTuner::ChooseOne(const PlanKey& key, const std::vector<Plan>& plans,
                            const std::function<double()>& time, double& least) {
  Plan best = runner_.PlanOf(key);
  for (const Plan& plan : plans) {
    if (plan == best) continue;
    runner_.Adopt(key, plan);
    const double plan_time = time();
    const double worth = plan.kernel == best.kernel ? kClearlyLess : kWorthAnotherKernel;
    if (plan_time < worth * least) {
      least = plan_time;
      best = plan;
    }
  }
  runner_.Adopt(key, best);
}

}  // namespace parallax::kernels::cuda
