// Sampling a batch of 256 rows of 151936 logits: microseconds a call for each kind of parameter,
// beside a plain read of the same bytes. One JSON line a case.
#include <cuda_runtime_api.h>

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

constexpr int kRows = 256;
constexpr int kVocab = 151936;
constexpr int kSamples = 30;
// Batches of 156 MB take turns, so that none is found in the L2.
constexpr int kBatches = 3;

template <typename T>
T* Allocate(size_t count) {
  void* data = nullptr;
  CheckCuda(cudaMalloc(&data, count * sizeof(T)), "sampling_bench", "cudaMalloc");
  return static_cast<T*>(data);
}

// Normal logits; every row starts elsewhere in one random sequence.
float* RandomBatches(float deviation) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> sequence(2 * kVocab);
  for (float& logit : sequence) logit = normal(rng);
  float* const logits = Allocate<float>(size_t{kBatches} * kRows * kVocab);
  for (int row = 0; row < kBatches * kRows; ++row) {
    const size_t begin = rng() % kVocab;
    CheckCuda(cudaMemcpy(logits + size_t(row) * kVocab, sequence.data() + begin, kVocab * 4,
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
      {"plain", row},
      {"top_k 50", with([](auto& r) { r.top_k = 50; })},
      {"top_k 50, top_p 0.9", with([](auto& r) { r.top_k = 50, r.top_p = 0.9f; })},
      {"min_p 0.05", with([](auto& r) { r.min_p = 0.05f; })},
      {"top_p 0.9, 5 logprobs", with([](auto& r) { r.top_p = 0.9f, r.num_top_logprobs = 5; })},
  };
}

int Main() {
  const kernels::cuda::DeviceProperties device = kernels::cuda::ReadDeviceProperties(0);
  DeviceSamplingRow* const rows = Allocate<DeviceSamplingRow>(kRows);
  auto* const results = Allocate<kernels::SampleResult>(kRows);
  const size_t workspace_bytes = kernels::cuda::SampleWorkspaceBytes(device, kRows, kVocab);
  auto* const workspace = Allocate<std::byte>(workspace_bytes);
  for (const float deviation : {1.0f, 3.0f}) {
    float* const logits = RandomBatches(deviation);
    const size_t bytes = size_t{kRows} * kVocab * sizeof(float);
    const double floor_us = bytes / ReadBytesPerSecond(logits, kBatches * bytes) * 1e6;
    for (const Case& kind : Cases()) {
      std::vector<DeviceSamplingRow> host(kRows, kind.row);
      for (int i = 0; i < kRows; ++i) {
        host[i].logits_index = i;
        host[i].seed = i;
      }
      CheckCuda(cudaMemcpy(rows, host.data(), kRows * sizeof(host[0]), cudaMemcpyHostToDevice),
                "sampling_bench", "cudaMemcpy");
      kernels::cuda::SampleParams params;
      params.rows = {rows, kRows};
      params.results = {results, kRows};
      params.token_limit = kVocab;
      params.workspace = {workspace, workspace_bytes};
      const double us =
          MedianMicroseconds(kBatches, kSamples, [&](const kernels::Stream& stream, int i) {
            params.logits = kernels::ConstTensorView(logits + i * bytes / sizeof(float),
                                                     kernels::DType::kFloat32, {kRows, kVocab},
                                                     {kernels::DeviceType::kCuda, 0});
            kernels::cuda::Sample(params, device, stream);
          });
      std::printf(
          "{\"case\": \"%s\", \"deviation\": %.0f, \"rows\": %d, \"vocab\": %d, \"us\": %.1f, "
          "\"read_floor_us\": %.1f}\n",
          kind.name, deviation, kRows, kVocab, us, floor_us);
      std::fflush(stdout);
    }
    cudaFree(logits);
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace parallax::bench

int main() { return parallax::bench::Main(); }
