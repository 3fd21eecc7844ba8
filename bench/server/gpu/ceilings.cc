// What the GPU itself can do, as the yardstick of a server's figures: a plain read of its memory
// and cuBLASLt's rate on a large product of random bfloat16 matrices. One JSON line.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bench/kernels/cuda/launch_timer.h"
#include "bench/kernels/cuda/read_ceiling.h"
#include "engine/models/tensor_source.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/linear_plans.h"

namespace parallax::bench {
namespace {

using kernels::cuda::DeviceBuffer;
using kernels::cuda::LinearParams;
using kernels::cuda::LinearPlans;
using kernels::cuda::PinnedBuffer;

constexpr int64_t kSide = 8192;
constexpr size_t kReadBytes = size_t{2} << 30;
constexpr int kRepeats = 11;

DeviceBuffer RandomMatrix(const std::string& name, const kernels::cuda::OwnedStream& stream) {
  DummyTensorSource source(/*seed=*/1, kernels::DType::kBFloat16);
  const auto tensor = source.Get(name, {kSide, kSide});
  if (!tensor.ok()) throw std::runtime_error(tensor.status().ToString());
  const size_t bytes = sizeof(__nv_bfloat16) * kSide * kSide;
  const PinnedBuffer staging(bytes, name);
  std::memcpy(staging.data(), tensor->data, bytes);
  DeviceBuffer matrix(bytes, name);
  kernels::cuda::CopyToDevice(matrix.data(), staging.data(), bytes, stream.stream());
  stream.Synchronize();
  return matrix;
}

double GemmFlopsPerSecond(const kernels::cuda::OwnedStream& stream) {
  const DeviceBuffer x = RandomMatrix("x", stream);
  const DeviceBuffer weight = RandomMatrix("weight", stream);
  const DeviceBuffer y(x.size(), "y");
  const DeviceBuffer workspace(LinearPlans::WorkspaceBytes(kSide, 0), "workspace");
  LinearParams params;
  params.x = x.as<__nv_bfloat16>();
  params.weight = weight.as<__nv_bfloat16>();
  params.y = y.data();
  params.tokens = params.num_outputs = params.num_inputs = kSide;
  LinearPlans plans(kernels::cuda::ReadDeviceProperties(0));
  plans.Tune({&params, 1}, workspace.bytes(), stream.stream());
  const double microseconds = MedianMicroseconds(
      1, kRepeats,
      [&](const kernels::Stream& timed, int) { plans.Run(params, workspace.bytes(), timed); });
  return 2.0 * kSide * kSide * kSide / microseconds * 1e6;
}

int Main() {
  try {
    const kernels::cuda::OwnedStream stream(0);
    const DeviceBuffer memory(kReadBytes, "memory to read");
    const double read = ReadBytesPerSecond(memory.data(), memory.size());
    std::printf("{\"plain_read_tb_per_s\": %.3f, \"large_gemm_tflop_per_s\": %.1f}\n", read * 1e-12,
                GemmFlopsPerSecond(stream) * 1e-12);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ceilings: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace parallax::bench

int main() { return parallax::bench::Main(); }
