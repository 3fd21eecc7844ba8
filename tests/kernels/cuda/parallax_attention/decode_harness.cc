#include "tests/kernels/cuda/parallax_attention/decode_harness.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/reference/captured_attention.h"

namespace parallax::kernels::cuda {

using reference::AttentionProblem;

DecodeBatch::DecodeBatch(const std::vector<AttentionProblem>& problems, std::mt19937& rng,
                         const DeviceProperties& device)
    : device_(device), batch_(problems, rng) {
  batch_.Describe(params_);
  bool one_row_each = true;
  for (const AttentionProblem& problem : problems) {
    params_.max_query_len = std::max(params_.max_query_len, problem.query_rows);
    one_row_each = one_row_each && problem.query_rows == 1;
  }
  if (one_row_each) params_.query_start = nullptr;  // both ways to give rows are used
  const AttentionProblem& first = problems.front();
  workspace_.emplace(ParallaxDecodeWorkspaceBytes(device_, first.query_heads, first.kv_heads,
                                                  first.head_dim, params_.max_query_len));
  // The rest stays as poisoned as the array was made.
  Require(cudaMemset(workspace_->data(), 0, ParallaxDecodeCounterBytes(device_)));
  params_.workspace = {workspace_->data(), workspace_->size()};
}

void DecodeBatch::Enqueue(cudaStream_t stream) {
  ParallaxDecode(params_, device_, Stream(0, stream));
}

std::vector<std::vector<float>> DecodeBatch::Run(cudaStream_t stream) {
  batch_.PoisonOut();
  Enqueue(stream);
  return ReadOut();
}

double DecodeError(const std::vector<AttentionProblem>& problems, const DeviceProperties& device) {
  std::mt19937 rng(1);
  DecodeBatch batch(problems, rng, device);
  return RelativeErrorOfAll(batch.Run(), problems);
}

void ExpectRightOnCapturedProblems(const DeviceProperties& device, double tolerance) {
  for (const reference::AttentionProblem& captured :
       reference::ReadCapturedAttention(reference::kDefaultModelAttention)) {
    const int rows = captured.query_rows;
    for (const auto& problems :
         {reference::SplitIntoRows(captured),
          std::vector{reference::RowsOf(captured, rows - kMaxDecodeQueryLen, rows)}}) {
      const double softmax = DecodeError(reference::WithZeroProbes(problems), device);
      const double probed = DecodeError(problems, device);
      EXPECT_LT(probed, 3 * softmax) << problems.size() << " sequences";
      EXPECT_LT(probed, tolerance) << problems.size() << " sequences";
    }
  }
}

}  // namespace parallax::kernels::cuda
