// One decode step's linear layers of a model, chained through their activations in a CUDA graph:
// SkinnyLinear, TensorLinear with the splits it expects to be fastest, the tuned plans of all
// kernels, and cuBLASLt's tuned algorithms, in the same run, as fractions of a plain read of the
// same bytes. One JSON line a case.
//
// All fuse SiLU into gate and up, but cuBLASLt: its "and silu" runs a kernel for it, and is what
// the others are to be compared with; its "products alone" leaves it out, and so computes less.
//
//   linear_bench [--skinny] [--splits] [tokens ...]   default 1 2 4 8 16 32 64 128
//
// --skinny leaves cuBLASLt, and so the tuned plans, out. --splits times every split of TensorLinear
// on each of the model's layer shapes instead of the chain: microseconds a layer, of as many layers
// as the model has.
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
using kernels::cuda::TensorLinearSplit;

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
  // Without `gated` the down projection reads the gate's half as it is: products alone.
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

// The splits that TensorLinear expects to be fastest, one for each layer.
std::vector<TensorLinearSplit> ExpectedSplits(const std::vector<LinearParams>& layers) {
  std::vector<TensorLinearSplit> splits;
  for (const LinearParams& layer : layers) {
    splits.push_back(kernels::cuda::TensorLinearSplits(layer, 0).front());
  }
  return splits;
}

// All that a layer can be divided into.
std::vector<TensorLinearSplit> AllSplits(const LinearParams& layer) {
  std::vector<TensorLinearSplit> splits;
  for (int cluster : {1, 2, 4, 8}) {
    for (int ctas_per_sm : {1, 2}) {
      for (bool keep_x : {false, true}) {
        const TensorLinearSplit split{cluster, ctas_per_sm, keep_x};
        if (kernels::cuda::TensorLinearTakes(layer, split, 0)) splits.push_back(split);
      }
    }
  }
  return splits;
}

// Its place in the order of expected times; -1: not even timed by the tuner.
int ExpectedRank(const LinearParams& layer, const TensorLinearSplit& split) {
  const std::vector<TensorLinearSplit> ranked = kernels::cuda::TensorLinearSplits(layer, 0);
  const auto found = std::find(ranked.begin(), ranked.end(), split);
  return found == ranked.end() ? -1 : static_cast<int>(found - ranked.begin());
}

const char* EpilogueName(const LinearParams& layer) {
  if (layer.epilogue == LinearEpilogue::kSiluAndMul) return "silu and mul";
  return layer.y_dtype == DType::kFloat32 ? "float32" : "bfloat16";
}

// Each split on all of the step's layers of one shape, behind one another.
void TimeSplits(const Model& model, int tokens, Step& step, double ceiling) {
  for (int kind = 0; kind < 5; ++kind) {
    std::vector<LinearParams> layers;
    if (kind == 4) {
      layers.push_back(step.params().back());
    } else {
      for (int layer = 0; layer < model.layers; ++layer) {
        layers.push_back(step.params()[4 * layer + kind]);
      }
    }
    const LinearParams& shape = layers.front();
    for (const TensorLinearSplit& split : AllSplits(shape)) {
      const double microseconds =
          MedianMicroseconds(1, kSamples,
                             [&](const Stream& stream, int) {
                               for (const LinearParams& layer : layers) {
                                 kernels::cuda::TensorLinear(layer, split, stream);
                               }
                             }) /
          static_cast<double>(layers.size());
      const double bytes = 2.0 * shape.num_outputs * shape.num_inputs;
      std::printf(
          "{\"model\": \"%s\", \"tokens\": %d, \"outputs\": %d, \"inputs\": %d, \"y\": \"%s\", "
          "\"cluster\": %d, \"ctas_per_sm\": %d, \"keep_x\": %s, "
          "\"expected_rank\": %d, \"us\": %.2f, \"read_fraction\": %.3f}\n",
          model.name, tokens, shape.num_outputs, shape.num_inputs, EpilogueName(shape),
          split.cluster, split.ctas_per_sm, split.keep_x ? "true" : "false",
          ExpectedRank(shape, split), microseconds,
          bytes / microseconds * 1e6 / ceiling);
      std::fflush(stdout);
    }
  }
}

struct Options {
  std::vector<int> token_counts;
  bool with_cublaslt = true;
  bool splits = false;
};

int Main(const Options& options) {
  kernels::cuda::DeviceProperties device = kernels::cuda::ReadDeviceProperties(0);
  // cuBLASLt for any number of tokens, as on a GPU that SkinnyLinear does not know.
  kernels::cuda::DeviceProperties plain = device;
  plain.compute_capability = 80;
  LinearPlans skinny(device);  // never tuned
  LinearPlans tuned(device);
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
    for (const int tokens : options.token_counts) {
      Step step(model, tokens, true, weights, activations);
      for (LinearParams& params : step.params()) params.programmatic_launch = true;
      if (options.splits) {
        if (tokens <= kernels::cuda::kMaxTensorTokens) TimeSplits(model, tokens, step, ceiling);
        continue;
      }
      const auto time = [&](Step& timed, const char* kernel, const auto& run) {
        const double microseconds = MedianMicroseconds(1, kSamples, [&](const Stream& stream, int) {
          for (size_t i = 0; i < timed.params().size(); ++i) run(timed.params()[i], i, stream);
        });
        Report(model, tokens, kernel, microseconds, timed.weight_bytes(), ceiling);
      };
      const auto run_by = [&](LinearPlans& plans) {
        return [&](const LinearParams& params, size_t, const Stream& stream) {
          plans.Run(params, workspace, stream);
        };
      };
      if (tokens <= kernels::cuda::kMaxSkinnyTokens) {
        Step waiting(model, tokens, true, weights, activations);
        time(waiting, "skinny", run_by(skinny));
        time(step, "skinny, programmatic launch", run_by(skinny));
      }
      if (tokens <= kernels::cuda::kMaxTensorTokens) {
        const std::vector<TensorLinearSplit> splits = ExpectedSplits(step.params());
        time(step, "tensor, programmatic launch",
             [&](const LinearParams& params, size_t i, const Stream& stream) {
               kernels::cuda::TensorLinear(params, splits[i], stream);
             });
      }
      if (!options.with_cublaslt) continue;
      tuned.Tune(step.params(), workspace, Stream(0, tuning));
      time(step, "plans, tuned, programmatic launch", run_by(tuned));
      cublaslt.Tune(step.params(), workspace, Stream(0, tuning));
      time(step, "cublaslt and silu, tuned", run_by(cublaslt));
      Step products(model, tokens, false, weights, activations);
      cublaslt.Tune(products.params(), workspace, Stream(0, tuning));
      time(products, "cublaslt products alone, tuned", run_by(cublaslt));
    }
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) {
  parallax::bench::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--skinny") {
      options.with_cublaslt = false;
    } else if (argument == "--splits") {
      options.splits = true;
    } else {
      options.token_counts.push_back(std::atoi(argv[i]));
    }
  }
  if (options.token_counts.empty()) options.token_counts = {1, 2, 4, 8, 16, 32, 64, 128};
  return parallax::bench::Main(options);
}
