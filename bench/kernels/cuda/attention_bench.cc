#include "bench/kernels/cuda/attention_bench.h"

#include <cmath>
#include <string>
#include <vector>

#include "bench/kernels/cuda/memory_kernels.h"
#include "kernels/check.h"
#include "kernels/cuda/parallax_decode.h"
#include "kernels/cuda/parallax_prefill.h"

namespace parallax::bench {
namespace {

// Of the largest element. bf16 products and a bf16 result stay under a third of it; a page or
// head mixed up does not.
constexpr double kMaxError = 0.02;

// What decode's and prefill's parameters have in common.
template <typename Params>
Params MakeParams(const BenchCase& bench_case, const AttentionProblem& problem, int copy,
                  bool softmax) {
  Params params;
  params.q = problem.q();
  if (!softmax) params.r = problem.r();
  params.out = problem.out();
  params.cache = problem.cache();
  params.batch = bench_case.sequences();
  params.context_len = problem.context_len();
  params.block_tables = problem.block_tables(copy);
  params.max_blocks = problem.max_blocks();
  params.softmax_scale = 1.0f / std::sqrt(static_cast<float>(bench_case.head_dim));
  return params;
}

}  // namespace

AttentionBench::AttentionBench(int samples, size_t pool_bytes)
    : device_(kernels::cuda::ReadDeviceProperties(0)), pool_(pool_bytes), timer_(samples) {}

kernels::cuda::DeviceBuffer AttentionBench::MakeWorkspace(const BenchCase& bench_case) const {
  const size_t bytes =
      bench_case.kind == BenchCase::Kind::kPrefill
          ? kernels::cuda::ParallaxPrefillWorkspaceBytes()
          : kernels::cuda::ParallaxDecodeWorkspaceBytes(device_, bench_case.query_heads,
                                                        bench_case.kv_heads, bench_case.head_dim,
                                                        /*max_query_len=*/1);
  return kernels::cuda::DeviceBuffer(bytes, "workspace");
}

GraphTimer::Launch AttentionBench::Attention(const BenchCase& bench_case,
                                             const AttentionProblem& problem,
                                             const kernels::cuda::DeviceBuffer& workspace,
                                             Variant variant) const {
  const bool softmax = variant == Variant::kSoftmax;
  if (bench_case.kind == BenchCase::Kind::kPrefill) {
    return [&, softmax](int i) {
      auto params = MakeParams<kernels::cuda::ParallaxPrefillParams>(bench_case, problem,
                                                                     i % problem.copies(), softmax);
      params.query_start = problem.query_start();
      params.workspace = workspace.bytes();
      kernels::cuda::ParallaxPrefill(params, device_, timer_.stream());
    };
  }
  return [&, softmax, programmatic = variant == Variant::kProgrammatic](int i) {
    auto params = MakeParams<kernels::cuda::ParallaxDecodeParams>(bench_case, problem,
                                                                  i % problem.copies(), softmax);
    params.workspace = workspace.bytes();
    params.programmatic_launch = programmatic;
    kernels::cuda::ParallaxDecode(params, device_, timer_.stream());
  };
}

double AttentionBench::CheckedError(const GraphTimer::Launch& attention,
                                    const AttentionProblem& problem, bool softmax) const {
  const int copy = problem.copies() - 1;
  attention(copy);
  timer_.Synchronize();
  const double error = problem.MaxError(copy, softmax);
  if (!(error < kMaxError)) {
    kernels::ThrowKernelError("bench", softmax ? "softmax" : "parallax",
                              "differs from fp64 by " + std::to_string(error));
  }
  return error;
}

AttentionTimes AttentionBench::Run(const BenchCase& bench_case) {
  const AttentionProblem problem(bench_case, pool_);
  const kernels::cuda::DeviceBuffer workspace = MakeWorkspace(bench_case);
  const auto parallax = Attention(bench_case, problem, workspace, Variant::kParallax);
  const auto softmax = Attention(bench_case, problem, workspace, Variant::kSoftmax);
  const auto read = [&](int i) {
    ReadMemory(problem.kv_copy(i % problem.copies()), problem.kv_bytes(), timer_.stream());
  };
  AttentionTimes times;
  times.parallax_error = CheckedError(parallax, problem, false);
  times.softmax_error = CheckedError(softmax, problem, true);
  std::vector<GraphTimer::Launch> operations = {parallax, softmax, read};
  if (bench_case.kind == BenchCase::Kind::kDecode) {
    operations.push_back(Attention(bench_case, problem, workspace, Variant::kProgrammatic));
  }
  const std::vector<double> medians =
      timer_.Measure(operations, bench_case.launches(pool_.bytes()), !bench_case.warm);
  times.parallax_us = medians[0];
  times.softmax_us = medians[1];
  times.read_us = medians[2];
  if (medians.size() > 3) {
    times.programmatic_us = medians[3];
    times.held = bench_case.max_context() - 1 >=
                 kernels::cuda::DecodeHoldsFrom(device_, bench_case.sequences(),
                                                bench_case.query_heads, problem.cache(),
                                                /*sliding_window=*/0);
  }
  return times;
}

}  // namespace parallax::bench
