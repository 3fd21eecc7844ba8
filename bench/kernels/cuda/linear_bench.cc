// One decode step's linear layers of a model, chained through their activations in a CUDA graph:
// SkinnyLinear against cuBLASLt's tuned algorithms, in the same run, as fractions of a plain read
// of the same bytes. One JSON line a case.
//
//   linear_bench [--skinny] [tokens ...]   default 1 2 4 8 16; --skinny leaves cuBLASLt out
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <vector>

#include "bench/kernels/cuda/launch_timer.h"
#include "bench/kernels/cuda/read_ceiling.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/linear_plans.h"

namespace parallax::bench {
namespace {

using kernels::DType;
using kernels::Stream;
using kernels::cuda::LinearEpilogue;
using kernels::cuda::LinearParams;
using kernels::cuda::LinearPlans;

constexpr int kSamples = 20;
constexpr int kMaxTokens = 1024;

struct Model {
  const char* name;
  int hidden;
  int mlp;
  int layers;
  int projected;  // outputs of q, r, k and v together
  int attention;  // inputs of the output projection
  int vocab;
};

constexpr Model kModels[] = {
    {"0.6B", 1024, 3072, 28, 6144, 2048, 151936},
    {"1.7B", 2048, 6144, 28, 6144, 2048, 151936},
    {"8B", 4096, 12288, 36, 10240, 4096, 151936},
};

void* Allocate(size_t bytes) {
  void* data = nullptr;
  kernels::cuda::CheckCuda(cudaMalloc(&data, bytes), "linear_bench", "cudaMalloc");
  kernels::cuda::CheckCuda(cudaMemset(data, 0, bytes), "linear_bench", "cudaMemset");
  return data;
}

// Small bf16 numbers of either sign: what a chip draws depends on the bits that change.
char* AllocateRandom(size_t bytes) {
  constexpr size_t kBlock = size_t{64} << 20;
  std::mt19937 rng(1);
  std::vector<uint32_t> block(kBlock / sizeof(uint32_t));
  for (uint32_t& pair : block) pair = (static_cast<uint32_t>(rng()) & 0x80ff80ffu) | 0x3c003c00u;
  char* const data = static_cast<char*>(Allocate(bytes));
  for (size_t i = 0; i < bytes; i += kBlock) {
    kernels::cuda::CheckCuda(cudaMemcpy(data + i, i == 0 ? static_cast<void*>(block.data()) : data,
                                        std::min(kBlock, bytes - i), cudaMemcpyDefault),
                             "linear_bench", "cudaMemcpy");
  }
  return data;
}

// The layers of one step in order, every one with weights of its own.
class Step {
 public:
  // cuBLASLt has no gated epilogue: without `gated` the down projection reads the gate's half as
  // it is, so that only products are timed.
  Step(const Model& model, int tokens, bool gated, char* weights, char* activations)
      : weights_(weights) {
    char* const x = activations;
    char* const y = x + kActivationBytes;
    char* const logits = y + kActivationBytes;
    for (int layer = 0; layer < model.layers; ++layer) {
      Add(x, 0, model.projected, model.hidden, y, tokens);
      Add(y, model.projected, model.hidden, model.attention, x, tokens);
      Add(x, 0, 2 * model.mlp, model.hidden, y, tokens);
      if (gated) params_.back().epilogue = LinearEpilogue::kSiluAndMul;
      Add(y, gated ? 0 : 2 * model.mlp, model.hidden, model.mlp, x, tokens);
    }
    Add(x, 0, model.vocab, model.hidden, logits, tokens);
    params_.back().y_dtype = DType::kFloat32;
  }

  static constexpr size_t kActivationBytes = size_t{kMaxTokens} * 2 * 12288 * 2;

  std::vector<LinearParams>& params() { return params_; }
  size_t weight_bytes() const { return used_; }

 private:
  void Add(char* x, int64_t x_stride, int outputs, int inputs, char* y, int tokens) {
    LinearParams params;
    params.x = reinterpret_cast<__nv_bfloat16*>(x);
    params.x_stride = x_stride;
    params.weight = reinterpret_cast<__nv_bfloat16*>(weights_ + used_);
    params.y = y;
    params.tokens = tokens;
    params.num_outputs = outputs;
    params.num_inputs = inputs;
    used_ += sizeof(__nv_bfloat16) * static_cast<size_t>(outputs) * inputs;
    params_.push_back(params);
  }

  char* weights_;
  size_t used_ = 0;
  std::vector<LinearParams> params_;
};

void Report(const Model& model, int tokens, const char* kernel, double microseconds, size_t bytes,
            double ceiling) {
  const double bandwidth = static_cast<double>(bytes) / microseconds * 1e6;
  std::printf(
      "{\"model\": \"%s\", \"tokens\": %d, \"kernel\": \"%s\", \"us\": %.1f, "
      "\"read_fraction\": %.3f}\n",
      model.name, tokens, kernel, microseconds, bandwidth / ceiling);
  std::fflush(stdout);
}

int Main(const std::vector<int>& token_counts, bool with_cublaslt) {
  kernels::cuda::DeviceProperties device = kernels::cuda::ReadDeviceProperties(0);
  // cuBLASLt for any number of tokens, as on a GPU that SkinnyLinear does not know.
  kernels::cuda::DeviceProperties plain = device;
  plain.compute_capability = 80;
  LinearPlans own(device);
  LinearPlans cublaslt(plain);
  char* const weights = AllocateRandom(size_t{18} << 30);
  char* const activations =
      static_cast<char*>(Allocate(2 * Step::kActivationBytes + size_t{kMaxTokens} * 151936 * 4));
  const size_t workspace_bytes = LinearPlans::WorkspaceBytes(kMaxTokens, 2 * 12288);
  const std::span<std::byte> workspace(static_cast<std::byte*>(Allocate(workspace_bytes)),
                                       workspace_bytes);
  const double ceiling = ReadBytesPerSecond(weights, size_t{6} << 30);
  std::printf("{\"device\": \"%s\", \"read_tb_per_s\": %.3f}\n", device.name.c_str(),
              ceiling / 1e12);
  cudaStream_t tuning;
  kernels::cuda::CheckCuda(cudaStreamCreateWithFlags(&tuning, cudaStreamNonBlocking),
                           "linear_bench", "stream");
  for (const Model& model : kModels) {
    for (const int tokens : token_counts) {
      const auto time = [&](LinearPlans& plans, Step& step, const char* kernel) {
        const double microseconds = MedianMicroseconds(1, kSamples, [&](const Stream& stream, int) {
          for (const LinearParams& params : step.params()) plans.Run(params, workspace, stream);
        });
        Report(model, tokens, kernel, microseconds, step.weight_bytes(), ceiling);
      };
      if (tokens <= kernels::cuda::kMaxSkinnyTokens) {
        Step step(model, tokens, true, weights, activations);
        time(own, step, "skinny");
        for (LinearParams& params : step.params()) params.programmatic_launch = true;
        time(own, step, "skinny, programmatic launch");
      }
      if (!with_cublaslt) continue;
      Step step(model, tokens, false, weights, activations);
      cublaslt.Tune(step.params(), workspace, Stream(0, tuning));
      time(cublaslt, step, "cublaslt, tuned");
    }
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) {
  std::vector<int> token_counts;
  bool with_cublaslt = true;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--skinny") {
      with_cublaslt = false;
    } else {
      token_counts.push_back(std::atoi(argv[i]));
    }
  }
  if (token_counts.empty()) token_counts = {1, 2, 4, 8, 16};
  return parallax::bench::Main(token_counts, with_cublaslt);
}
