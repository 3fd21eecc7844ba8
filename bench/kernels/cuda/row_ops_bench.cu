// Times the GPU's row-wise ops at the shapes of the 0.6B and 8B models and prints JSON lines:
// microseconds, bytes moved, and the share of what a plain read of as many bytes reaches.
#include <cuda_bf16.h>

#include <cstdio>
#include <string>
#include <vector>

#include "bench/kernels/cuda/launch_timer.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/head_norm_rope.h"
#include "kernels/cuda/kv_cache_write.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/silu_and_mul.h"

namespace parallax::bench {
namespace {

using kernels::DType;
using kernels::Stream;
using kernels::TensorView;
using kernels::cuda::CheckCuda;

constexpr kernels::Device kDevice = {kernels::DeviceType::kCuda, 0};
constexpr size_t kArenaBytes = size_t{1} << 30;
constexpr int kLaunches = 20;
constexpr int kSamples = 21;
constexpr int kMaxPositions = 40960;

struct ModelShape {
  const char* name;
  int64_t hidden;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t intermediate;
};

__global__ void FillKernel(uint32_t* words, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    // Two bfloat16 between 1 and 2, which also make a float32 between 1 and 2.
    words[i] = 0x3f803f80u | (static_cast<uint32_t>(i * 2654435761u) & 0x007f007fu);
  }
}

__global__ void ReadKernel(const uint4* data, size_t count, uint32_t* sink) {
  uint32_t folded = 0;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
#pragma unroll 8
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += stride) {
    const uint4 bits = data[i];
    folded ^= bits.x ^ bits.y ^ bits.z ^ bits.w;
  }
  if (folded == 0x12345678u) *sink = folded;
}

// Hands out slices of one large allocation, wrapping around: successive launches use other
// memory, so that large operands are cold in L2.
class Arena {
 public:
  Arena() {
    CheckCuda(cudaMalloc(&data_, kArenaBytes), "Arena", "cudaMalloc");
    FillKernel<<<1024, 256>>>(reinterpret_cast<uint32_t*>(data_), kArenaBytes / 4);
    CheckCuda(cudaDeviceSynchronize(), "Arena", "fill");
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { cudaFree(data_); }

  void* Take(size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (next_ + bytes > kArenaBytes) next_ = 0;
    next_ += bytes;
    return data_ + next_ - bytes;
  }
  TensorView Take(DType dtype, int64_t rows, int64_t width) {
    return {
        Take(static_cast<size_t>(rows * width) * DTypeSize(dtype)), dtype, {rows, width}, kDevice};
  }

 private:
  std::byte* data_ = nullptr;
  size_t next_ = 0;
};

class RowOpsBench {
 public:
  RowOpsBench() {
    std::vector<int32_t> ids(kMaxTokens);
    std::vector<int64_t> slots(kMaxTokens);
    for (int i = 0; i < kMaxTokens; ++i) {
      ids[i] = static_cast<int32_t>(i * 7919LL % 40000);
      slots[i] = i * 4099LL % kMaxTokens;
    }
    CheckCuda(cudaMalloc(&ids_, ids.size() * sizeof(int32_t)), "Bench", "cudaMalloc");
    CheckCuda(cudaMalloc(&slots_, slots.size() * sizeof(int64_t)), "Bench", "cudaMalloc");
    CheckCuda(cudaMemcpy(ids_, ids.data(), ids.size() * sizeof(int32_t), cudaMemcpyDefault),
              "Bench", "copy");
    CheckCuda(cudaMemcpy(slots_, slots.data(), slots.size() * sizeof(int64_t), cudaMemcpyDefault),
              "Bench", "copy");
  }

  void Run(const ModelShape& model, int64_t tokens) {
    RunNorm(model, tokens);
    RunSilu(model, tokens);
    RunHeads(model, tokens);
    RunEmbedding(model, tokens);
  }

  void RunCopies(int copies) {
    constexpr int64_t kPages = 64;
    std::vector<kernels::PageCopy> list;
    for (int i = 0; i < copies; ++i) list.push_back({i, static_cast<int32_t>(kPages - 1 - i)});
    kernels::PageCopy* device_list = nullptr;
    CheckCuda(cudaMalloc(&device_list, list.size() * sizeof(list[0])), "Bench", "cudaMalloc");
    CheckCuda(
        cudaMemcpy(device_list, list.data(), list.size() * sizeof(list[0]), cudaMemcpyDefault),
        "Bench", "copy");
    kernels::cuda::PagedKvCache shape = {nullptr, kPages, 8, 128};
    const size_t page_bytes = shape.page_elements() * 2;
    std::vector<kernels::cuda::PagedKvCache> layers;
    for (int i = 0; i < 28; ++i) {
      shape.data = static_cast<__nv_bfloat16*>(arena_.Take(page_bytes * kPages));
      layers.push_back(shape);
    }
    Report("copy_kv_pages", "28 layers", copies, 2.0 * copies * layers.size() * page_bytes,
           [&](const Stream& stream, int) {
             kernels::cuda::CopyKvPages({device_list, list.size()}, layers, stream);
           });
    CheckCuda(cudaFree(device_list), "Bench", "cudaFree");
  }

 private:
  static constexpr int kMaxTokens = 16384;

  template <typename Launch>
  void Report(const char* op, const char* model, int64_t tokens, double bytes,
              const Launch& launch) {
    const double op_us = MedianMicroseconds(kLaunches, kSamples, launch);
    const size_t vectors = static_cast<size_t>(bytes) / sizeof(uint4);
    const double read_us = MedianMicroseconds(kLaunches, kSamples, [&](const Stream& stream, int) {
      ReadKernel<<<132 * 8, 256, 0, stream.cuda_stream()>>>(
          static_cast<const uint4*>(arena_.Take(bytes)), vectors, sink_);
    });
    std::printf(
        "{\"op\": \"%s\", \"model\": \"%s\", \"tokens\": %ld, \"us\": %.2f, \"bytes\": %.0f, "
        "\"tb_per_s\": %.3f, \"plain_read_us\": %.2f, \"of_plain_read\": %.2f}\n",
        op, model, static_cast<long>(tokens), op_us, bytes, bytes / op_us * 1e-6, read_us,
        read_us / op_us);
    std::fflush(stdout);
  }

  void RunNorm(const ModelShape& model, int64_t tokens) {
    const TensorView weight(weights_, DType::kFloat32, {model.hidden}, kDevice);
    Report("add_rms_norm", model.name, tokens, 12.0 * tokens * model.hidden,
           [&](const Stream& stream, int) {
             const TensorView x = arena_.Take(DType::kBFloat16, tokens, model.hidden);
             kernels::cuda::AddRmsNorm(x, arena_.Take(DType::kFloat32, tokens, model.hidden),
                                       weight, 1e-6f, x, stream);
           });
  }

  void RunSilu(const ModelShape& model, int64_t tokens) {
    Report("silu_and_mul", model.name, tokens, 6.0 * tokens * model.intermediate,
           [&](const Stream& stream, int) {
             kernels::cuda::SiluAndMul(
                 arena_.Take(DType::kBFloat16, tokens, 2 * model.intermediate),
                 arena_.Take(DType::kBFloat16, tokens, model.intermediate), stream);
           });
  }

  void RunHeads(const ModelShape& model, int64_t tokens) {
    constexpr int64_t kHeadDim = 128;
    const int64_t row = (2 * model.num_heads + 2 * model.num_kv_heads) * kHeadDim;
    const TensorView weight(weights_, DType::kFloat32, {kHeadDim}, kDevice);
    kernels::cuda::HeadNormRopeParams params;
    params.q_weight = params.r_weight = params.k_weight = weight;
    params.table = TensorView(arena_.Take(kMaxPositions * kHeadDim * 4), DType::kFloat32,
                              {kMaxPositions, kHeadDim}, kDevice);
    params.positions = {ids_, static_cast<size_t>(tokens)};
    params.slot_mapping = {slots_, static_cast<size_t>(tokens)};
    params.cache = {nullptr, kMaxTokens / kernels::kPageSize, static_cast<int>(model.num_kv_heads),
                    kHeadDim};
    Report("head_norm_rope_and_kv_write", model.name, tokens, 4.0 * tokens * row,
           [&](const Stream& stream, int) {
             const TensorView qrkv = arena_.Take(DType::kBFloat16, tokens, row);
             params.qrkv = qrkv;
             params.q = TensorView(qrkv.data, DType::kBFloat16, {tokens, model.num_heads, kHeadDim},
                                   kDevice);
             params.q.strides[0] = row;
             params.r = params.q;
             params.r.data = static_cast<__nv_bfloat16*>(qrkv.data) + model.num_heads * kHeadDim;
             params.cache.data = static_cast<__nv_bfloat16*>(
                 arena_.Take(params.cache.num_pages * params.cache.page_elements() * 2));
             kernels::cuda::HeadNormRopeAndKvWrite(params, stream);
           });
  }

  void RunEmbedding(const ModelShape& model, int64_t tokens) {
    constexpr int64_t kVocab = 40000;
    const TensorView table = arena_.Take(DType::kBFloat16, kVocab, model.hidden);
    Report("embedding", model.name, tokens, 6.0 * tokens * model.hidden,
           [&](const Stream& stream, int) {
             kernels::cuda::Embedding({.table = table,
                                       .ids = {ids_, static_cast<size_t>(tokens)},
                                       .slot_tokens = {},
                                       .out = arena_.Take(DType::kFloat32, tokens, model.hidden)},
                                      stream);
           });
  }

  Arena arena_;
  void* weights_ = arena_.Take(65536);
  uint32_t* sink_ = static_cast<uint32_t*>(arena_.Take(256));
  int32_t* ids_ = nullptr;
  int64_t* slots_ = nullptr;
};

}  // namespace
}  // namespace parallax::bench

int main() {
  parallax::bench::RowOpsBench bench;
  for (const parallax::bench::ModelShape& model :
       {parallax::bench::ModelShape{"0.6B", 1024, 16, 8, 3072}, {"8B", 4096, 32, 8, 12288}}) {
    for (int64_t tokens : {1, 32, 256, 8192}) bench.Run(model, tokens);
  }
  bench.RunCopies(1);
  bench.RunCopies(16);
  return 0;
}
