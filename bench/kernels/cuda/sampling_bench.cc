// Sampling batches of rows of 151936 logits: microseconds a call for each kind of parameter and
// batch, beside a plain read of the same bytes. One JSON line a case.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench/kernels/cuda/launch_timer.h"
#include "bench/kernels/cuda/read_ceiling.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sampling.h"

namespace parallax::bench {
namespace {

using kernels::cuda::CheckCuda;
using kernels::cuda::DeviceSamplingRow;

constexpr int kMaxRows = 256;
constexpr int kVocab = 151936;
constexpr int kSamples = 30;
// Batches take turns over 467 MB, so that none is found in the L2; the smallest, of which so many
// launches would be needed, may find some.
constexpr int kLogitsRows = 3 * kMaxRows;
constexpr int kMaxLaunches = 96;

template <typename T>
T* Allocate(size_t count) {
  void* data = nullptr;
  CheckCuda(cudaMalloc(&data, count * sizeof(T)), "sampling_bench", "cudaMalloc");
  return static_cast<T*>(data);
}

struct Distribution {
  const char* name;
  float deviation;
  int peaks;  // tokens of a row that stand out, as a trained model's do
};

// Normal logits; every row starts elsewhere in one random sequence.
float* RandomLogits(const Distribution& distribution) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, distribution.deviation);
  std::vector<float> sequence(2 * kVocab);
  for (float& logit : sequence) logit = normal(rng);
  std::exponential_distribution<float> above(0.5f);
  float* const logits = Allocate<float>(size_t{kLogitsRows} * kVocab);
  for (int i = 0; i < kLogitsRows; ++i) {
    const auto begin = sequence.begin() + rng() % kVocab;
    std::vector<float> row(begin, begin + kVocab);
    for (int k = 0; k < distribution.peaks; ++k) row[rng() % kVocab] = 10.0f + above(rng);
    CheckCuda(cudaMemcpy(logits + size_t(i) * kVocab, row.data(), kVocab * sizeof(float),
                         cudaMemcpyHostToDevice),
              "sampling_bench", "cudaMemcpy");
  }
  return logits;
}

struct Case {
  const char* name;
  DeviceSamplingRow row;
};

std::vector<Case> Cases() {
  DeviceSamplingRow row;
  row.num_top_logprobs = -1;
  const auto with = [row](auto change) {
    DeviceSamplingRow changed = row;
    change(changed);
    return changed;
  };
  return {
      {"top_p 0.9", with([](auto& r) { r.top_p = 0.9f; })},
      {"top_p 0.95, temperature 0.7", with([](auto& r) { r.top_p = 0.95f, r.temperature = 0.7f; })},
      {"greedy", with([](auto& r) { r.temperature = 0.0f; })},
      {"greedy, logprob", with([](auto& r) { r.temperature = 0.0f, r.num_top_logprobs = 0; })},
      {"plain", row},
      {"plain, 5 logprobs", with([](auto& r) { r.num_top_logprobs = 5; })},
      {"top_k 50", with([](auto& r) { r.top_k = 50; })},
      {"top_k 50, top_p 0.9", with([](auto& r) { r.top_k = 50, r.top_p = 0.9f; })},
      {"min_p 0.05", with([](auto& r) { r.min_p = 0.05f; })},
      {"top_p 0.9, 5 logprobs", with([](auto& r) { r.top_p = 0.9f, r.num_top_logprobs = 5; })},
  };
}

class Sampler {
 public:
  explicit Sampler(const float* logits) : logits_(logits) {}

  double Microseconds(const DeviceSamplingRow& kind, int count) {
    std::vector<DeviceSamplingRow> rows(count, kind);
    for (int i = 0; i < count; ++i) {
      rows[i].logits_index = i;
      rows[i].seed = i;
    }
    CheckCuda(cudaMemcpy(rows_, rows.data(), count * sizeof(rows[0]), cudaMemcpyHostToDevice),
              "sampling_bench", "cudaMemcpy");
    kernels::cuda::SampleParams params;
    params.rows = {rows_, static_cast<size_t>(count)};
    params.results = {results_, static_cast<size_t>(count)};
    params.token_limit = kVocab;
    params.workspace = {workspace_, workspace_bytes_};
    const int launches = std::min(kLogitsRows / count, kMaxLaunches);
    return MedianMicroseconds(launches, kSamples, [&](const kernels::Stream& stream, int i) {
      params.logits =
          kernels::ConstTensorView(logits_ + size_t(i) * count * kVocab, kernels::DType::kFloat32,
                                   {count, kVocab}, {kernels::DeviceType::kCuda, 0});
      kernels::cuda::Sample(params, device_, stream);
    });
  }

 private:
  const kernels::cuda::DeviceProperties device_ = kernels::cuda::ReadDeviceProperties(0);
  const float* const logits_;
  DeviceSamplingRow* const rows_ = Allocate<DeviceSamplingRow>(kMaxRows);
  kernels::SampleResult* const results_ = Allocate<kernels::SampleResult>(kMaxRows);
  const size_t workspace_bytes_ = kernels::cuda::SampleWorkspaceBytes(kMaxRows, kVocab);
  std::byte* const workspace_ = Allocate<std::byte>(workspace_bytes_);
};

int Main() {
  constexpr Distribution kDistributions[] = {
      {"normal, deviation 1", 1.0f, 0},
      {"normal, deviation 3", 3.0f, 0},
      {"normal, deviation 2, and 64 peaks", 2.0f, 64},
  };
  for (const Distribution& distribution : kDistributions) {
    float* const logits = RandomLogits(distribution);
    const double bytes_per_us =
        ReadBytesPerSecond(logits, size_t{kLogitsRows} * kVocab * sizeof(float)) * 1e-6;
    Sampler sampler(logits);
    for (const int rows : {256, 128, 64, 16, 1}) {
      const double floor_us = size_t(rows) * kVocab * sizeof(float) / bytes_per_us;
      for (const Case& kind : Cases()) {
        std::printf(
            "{\"case\": \"%s\", \"logits\": \"%s\", \"rows\": %d, \"vocab\": %d, "
            "\"us\": %.1f, \"read_floor_us\": %.1f}\n",
            kind.name, distribution.name, rows, kVocab, sampler.Microseconds(kind.row, rows),
            floor_us);
        std::fflush(stdout);
      }
    }
    cudaFree(logits);
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace parallax::bench

int main() { return parallax::bench::Main(); }
