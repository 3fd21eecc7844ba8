// Making the GPU backend, from code that may be compiled without CUDA.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_CUDA_CUDA_BACKEND_H_
#define PARALLAX_ENGINE_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/models/model_config.h"
#include "engine/models/tensor_source.h"
#include "engine/runner/model_runner.h"

namespace parallax {

struct CudaModelRunnerOptions {
  std::string name;  // shown to operators
  int32_t max_context_tokens = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  /// KV pages, or 0 for what the budget leaves.
  int32_t num_pages = 0;
  /// For weights, workspaces, graphs and KV pages; 0 = memory_utilization of the device's memory,
  /// less what others hold of it.
  int64_t memory_budget_bytes = 0;
  double memory_utilization = 0.9;
  /// Where tuned plans of linear layers are kept between starts; empty = tuned at every start.
  std::string plan_file;
  /// As in CpuModelRunnerOptions.
  int32_t token_limit = 0;
  std::vector<uint32_t> token_mask;
  std::vector<int32_t> eos_token_ids;
};

/// Whether the backend is compiled in and a GPU it can use is there.
bool CudaBackendUsable();

/// Errors: UNIMPLEMENTED without CUDA in this build, else those of CudaModelRunner::Create.
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaModelRunner(
    const ModelConfig& config, TensorSource& source, const CudaModelRunnerOptions& options);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_CUDA_BACKEND_H_
