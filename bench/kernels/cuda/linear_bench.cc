// One step's linear layers of a model, chained through their activations in a CUDA graph:
// SkinnyLinear, TensorLinear and TileLinear with the splits they expect to be fastest, the tuned
// plans of all kernels, and cuBLASLt's tuned algorithms, in the same run, as fractions of a plain
// read of the same bytes. One JSON line a case.
//
// All fuse SiLU into gate and up, but cuBLASLt: its "and silu" runs a kernel for it, and is what
// the others are to be compared with; its "products alone" leaves it out, and so computes less.
//
//   linear_bench [--skinny] [--splits] [--mixed] [--model=NAME] [tokens ...]
//
// Tokens, each number from 1 to 1024, are 1 2 4 8 16 32 64 128 unless given. --skinny leaves
// cuBLASLt, and so the tuned plans, out. --mixed takes the layers as a step with a prompt's chunk
// has them: without the head, and o and down add to a float32 residual. --splits times every split
// of TensorLinear, or of TileLinear for more than 128 tokens and cuBLASLt beside it, on each of the
// model's layer shapes instead of the chain: microseconds a layer, of as many layers as the model
// has.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/kernels/cuda/launch_timer.h"
#include "bench/kernels/cuda/linear_step.h"
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
using kernels::cuda::TileLinearSplit;

constexpr int kSamples = 20;

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
  if (layer.epilogue == LinearEpilogue::kAccumulate) return "residual";
  return layer.y_dtype == DType::kFloat32 ? "float32" : "bfloat16";
}

using Run = std::function<void(const LinearParams&, const Stream&)>;

// Microseconds a layer, of layers behind one another.
double TimeLayers(const std::vector<LinearParams>& layers, const Run& run) {
  const auto launch = [&](const Stream& stream, int) {
    for (const LinearParams& layer : layers) run(layer, stream);
  };
  return MedianMicroseconds(1, kSamples, launch) / static_cast<double>(layers.size());
}

void ReportSplit(const Model& model, const LinearParams& layer, const std::string& split,
                 double microseconds, double ceiling) {
  const double bytes = 2.0 * layer.num_outputs * layer.num_inputs;
  std::printf(
      "{\"model\": \"%s\", \"tokens\": %d, \"outputs\": %d, \"inputs\": %d, \"y\": \"%s\", %s, "
      "\"us\": %.2f, \"tflops\": %.0f, \"read_fraction\": %.3f}\n",
      model.name, layer.tokens, layer.num_outputs, layer.num_inputs, EpilogueName(layer),
      split.c_str(), microseconds, bytes * layer.tokens / microseconds / 1e6,
      bytes / microseconds * 1e6 / ceiling);
  std::fflush(stdout);
}

void TimeTensorSplits(const Model& model, const std::vector<LinearParams>& layers, double ceiling) {
  for (const TensorLinearSplit& split : AllSplits(layers.front())) {
    const double microseconds =
        TimeLayers(layers, [&](const LinearParams& layer, const Stream& stream) {
          kernels::cuda::TensorLinear(layer, split, stream);
        });
    const std::string name =
        "\"cluster\": " + std::to_string(split.cluster) +
        ", \"ctas_per_sm\": " + std::to_string(split.ctas_per_sm) +
        ", \"keep_x\": " + (split.keep_x ? "true" : "false") +
        ", \"expected_rank\": " + std::to_string(ExpectedRank(layers.front(), split));
    ReportSplit(model, layers.front(), name, microseconds, ceiling);
  }
}

void TimeTileSplits(const Model& model, const std::vector<LinearParams>& layers, double ceiling) {
  int rank = 0;
  for (const TileLinearSplit& split : kernels::cuda::TileLinearSplits(layers.front(), 0)) {
    const double microseconds =
        TimeLayers(layers, [&](const LinearParams& layer, const Stream& stream) {
          kernels::cuda::TileLinear(layer, split, stream);
        });
    const std::string name = "\"token_tiles\": " + std::to_string(split.token_tiles) +
                             ", \"input_parts\": " + std::to_string(split.input_parts) +
                             ", \"sharers\": " + std::to_string(split.sharers) +
                             ", \"expected_rank\": " + std::to_string(rank++);
    ReportSplit(model, layers.front(), name, microseconds, ceiling);
  }
}

// The step's layers by shape: q, r, k and v; o; gate and up; down; the head, where there is one.
std::vector<std::vector<LinearParams>> ByShape(const Model& model, Step& step) {
  std::vector<std::vector<LinearParams>> shapes(4);
  for (int i = 0; i < 4 * model.layers; ++i) shapes[i % 4].push_back(step.params()[i]);
  if (step.params().size() > size_t{4} * model.layers) shapes.push_back({step.params().back()});
  return shapes;
}

struct Options {
  std::vector<int> token_counts;
  std::string model;  // empty: all
  bool with_cublaslt = true;
  bool splits = false;
  bool mixed = false;
};

class LinearBench {
 public:
  explicit LinearBench(const Options& options)
      : options_(options),
        device_(kernels::cuda::ReadDeviceProperties(0)),
        weights_(AllocateRandom(size_t{18} << 30)),
        // Random too: zeros would be multiplied at clocks that nothing else gets.
        activations_(AllocateRandom(2 * Step::kActivationBytes +
                                    size_t{kMaxTokens} * 151936 * sizeof(float))),
        workspace_(static_cast<std::byte*>(Allocate(WorkspaceBytes())), WorkspaceBytes()),
        ceiling_(ReadBytesPerSecond(weights_, size_t{6} << 30)),
        skinny_(device_),
        tuned_(device_),
        cublaslt_(WithoutOwnKernels(device_)) {
    std::printf("{\"device\": \"%s\", \"read_tb_per_s\": %.3f}\n", device_.name.c_str(),
                ceiling_ / 1e12);
    kernels::cuda::CheckCuda(cudaStreamCreateWithFlags(&tuning_, cudaStreamNonBlocking),
                             "linear_bench", "stream");
  }

  void Run() {
    for (const Model& model : kModels) {
      if (!options_.model.empty() && options_.model != model.name) continue;
      for (const int tokens : options_.token_counts) {
        if (options_.splits) {
          TimeSplits(model, tokens);
        } else {
          TimeChains(model, tokens);
        }
      }
    }
  }

 private:
  static size_t WorkspaceBytes() { return LinearPlans::WorkspaceBytes(kMaxTokens, 2 * 12288); }

  // cuBLASLt for any number of tokens, as on a GPU that the other kernels do not know.
  static kernels::cuda::DeviceProperties WithoutOwnKernels(kernels::cuda::DeviceProperties device) {
    device.compute_capability = 80;
    return device;
  }

  Step MakeStep(const Model& model, int tokens, bool gated, bool early) const {
    Step step(model, tokens, gated, options_.mixed, weights_, activations_);
    for (LinearParams& params : step.params()) params.programmatic_launch = early;
    return step;
  }

  void Tune(LinearPlans& plans, Step& step) {
    plans.Tune(step.params(), workspace_, Stream(0, tuning_));
  }

  void TimeSplits(const Model& model, int tokens) {
    Step step = MakeStep(model, tokens, true, true);
    const bool few = tokens <= kernels::cuda::kMaxTensorTokens;
    for (const std::vector<LinearParams>& layers : ByShape(model, step)) {
      if (few) {
        TimeTensorSplits(model, layers, ceiling_);
        continue;
      }
      TimeTileSplits(model, layers, ceiling_);
      if (!options_.with_cublaslt) continue;
      cublaslt_.Tune(layers, workspace_, Stream(0, tuning_));
      const double microseconds =
          TimeLayers(layers, [&](const LinearParams& layer, const Stream& stream) {
            cublaslt_.Run(layer, workspace_, stream);
          });
      ReportSplit(model, layers.front(), "\"cublaslt\": true", microseconds, ceiling_);
    }
  }

  // `run` takes the layer's number too.
  void TimeChain(const Model& model, Step& step, const char* kernel, const auto& run) {
    const double microseconds = MedianMicroseconds(1, kSamples, [&](const Stream& stream, int) {
      for (size_t i = 0; i < step.params().size(); ++i) run(step.params()[i], i, stream);
    });
    Report(model, step.params().front().tokens, kernel, microseconds, step.weight_bytes(),
           ceiling_);
  }

  void TimePlans(const Model& model, Step& step, const char* kernel, LinearPlans& plans) {
    TimeChain(model, step, kernel, [&](const LinearParams& params, size_t, const Stream& stream) {
      plans.Run(params, workspace_, stream);
    });
  }

  void TimeChains(const Model& model, int tokens) {
    Step step = MakeStep(model, tokens, true, true);
    TimeOwnKernels(model, tokens, step);
    if (!options_.with_cublaslt) return;
    Tune(tuned_, step);
    TimePlans(model, step, "plans, tuned, programmatic launch", tuned_);
    Tune(cublaslt_, step);
    TimePlans(model, step, "cublaslt and silu, tuned", cublaslt_);
    Step products = MakeStep(model, tokens, false, false);
    Tune(cublaslt_, products);
    TimePlans(model, products, "cublaslt products alone, tuned", cublaslt_);
  }

  void TimeOwnKernels(const Model& model, int tokens, Step& step) {
    if (tokens <= kernels::cuda::kMaxSkinnyTokens && !options_.mixed) {
      Step waiting = MakeStep(model, tokens, true, false);
      TimePlans(model, waiting, "skinny", skinny_);
      TimePlans(model, step, "skinny, programmatic launch", skinny_);
    }
    if (tokens <= kernels::cuda::kMaxTensorTokens) {
      const std::vector<TensorLinearSplit> splits = ExpectedSplits(step.params());
      TimeChain(model, step, "tensor, programmatic launch",
                [&](const LinearParams& params, size_t i, const Stream& stream) {
                  kernels::cuda::TensorLinear(params, splits[i], stream);
                });
      return;
    }
    std::vector<TileLinearSplit> splits;
    for (const LinearParams& layer : step.params()) {
      splits.push_back(kernels::cuda::TileLinearSplits(layer, 0).front());
    }
    TimeChain(model, step, "tile, programmatic launch",
              [&](const LinearParams& params, size_t i, const Stream& stream) {
                kernels::cuda::TileLinear(params, splits[i], stream);
              });
  }

  const Options options_;
  const kernels::cuda::DeviceProperties device_;
  char* const weights_;
  char* const activations_;
  const std::span<std::byte> workspace_;
  const double ceiling_;
  LinearPlans skinny_;  // never tuned
  LinearPlans tuned_;
  LinearPlans cublaslt_;
  cudaStream_t tuning_ = nullptr;
};

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) {
  constexpr std::string_view kModelOption = "--model=";
  parallax::bench::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--skinny") {
      options.with_cublaslt = false;
    } else if (argument == "--splits") {
      options.splits = true;
    } else if (argument == "--mixed") {
      options.mixed = true;
    } else if (argument.starts_with(kModelOption)) {
      options.model = argument.substr(kModelOption.size());
    } else {
      const int tokens = std::atoi(argv[i]);
      if (tokens < 1 || tokens > parallax::bench::kMaxTokens) {
        std::fprintf(stderr, "linear_bench: %s is no option, nor from 1 to %d tokens\n", argv[i],
                     parallax::bench::kMaxTokens);
        return 2;
      }
      options.token_counts.push_back(tokens);
    }
  }
  if (options.token_counts.empty()) options.token_counts = {1, 2, 4, 8, 16, 32, 64, 128};
  parallax::bench::LinearBench(options).Run();
}
