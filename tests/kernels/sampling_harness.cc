#include "tests/kernels/sampling_harness.h"

#include "kernels/cpu/thread_pool.h"

namespace parallax::kernels {

std::vector<SampleResult> RunSample(const std::vector<std::vector<float>>& logits,
                                    const std::vector<SamplingRow>& rows, int64_t token_limit,
                                    int threads) {
  ThreadPool pool(threads);
  const Stream stream(pool);
  const int64_t vocab = static_cast<int64_t>(logits.front().size());
  std::vector<float> packed;
  for (const std::vector<float>& row : logits) packed.insert(packed.end(), row.begin(), row.end());
  std::vector<std::byte> workspace(SampleWorkspaceBytes(vocab, stream));
  std::vector<SampleResult> results(rows.size());
  SampleParams params;
  params.logits =
      ConstTensorView(packed.data(), DType::kFloat32, {static_cast<int64_t>(logits.size()), vocab});
  params.rows = rows;
  params.token_limit = token_limit < 0 ? vocab : token_limit;
  params.results = results;
  params.workspace = workspace;
  Sample(params, stream);
  return results;
}

std::vector<float> RandomLogits(int vocab, float deviation, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

}  // namespace parallax::kernels
