#include "bench/kernels/cuda/graph_timer.h"

#include <algorithm>
#include <cstddef>

#include "bench/kernels/cuda/memory_kernels.h"

namespace parallax::bench {
namespace {

// Many times the L2; reading it takes longer than the host needs to queue a graph behind it.
constexpr size_t kSweepBytes = size_t{1} << 30;

double Median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

GraphTimer::GraphTimer(int samples)
    : samples_(samples), stream_(0), sweep_(kSweepBytes, "sweep of L2") {}

kernels::cuda::Graph GraphTimer::Capture(const Launch& launch, int launches) const {
  launch(0);  // loads the kernel, sets its attributes
  Synchronize();
  return kernels::cuda::Graph::Capture(stream(), [&] {
    for (int i = 0; i < launches; ++i) launch(i);
  });
}

double GraphTimer::Sample(const kernels::cuda::Graph& graph, bool cold) {
  // Either keeps the GPU busy until the timed graph is queued. A sweep reads: written lines
  // would have to be written back while the graph runs.
  if (cold) {
    ReadMemory(sweep_.data(), sweep_.size(), stream());
  } else {
    graph.Launch(stream());
  }
  start_.Record(stream());
  graph.Launch(stream());
  end_.Record(stream());
  end_.Synchronize();
  return 1e3 * kernels::cuda::Event::ElapsedMilliseconds(start_, end_);
}

std::vector<double> GraphTimer::Measure(const std::vector<Launch>& operations, int launches,
                                        bool cold) {
  std::vector<kernels::cuda::Graph> graphs;
  for (const Launch& launch : operations) graphs.push_back(Capture(launch, launches));
  std::vector<std::vector<double>> times(operations.size());
  constexpr int kWarmUp = 2;
  for (int sample = -kWarmUp; sample < samples_; ++sample) {
    for (size_t i = 0; i < graphs.size(); ++i) {
      const double microseconds = Sample(graphs[i], cold) / launches;
      if (sample >= 0) times[i].push_back(microseconds);
    }
  }
  std::vector<double> medians;
  for (auto& samples : times) medians.push_back(Median(samples));
  return medians;
}

}  // namespace parallax::bench
