#include <algorithm>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kv_cache_write.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "CopyKvPages";
constexpr int kThreads = 256;
constexpr int kVectorsAThread = 4;
constexpr int kMaxLayersALaunch = 128;

struct LayerPages {
  uint4* layers[kMaxLayersALaunch];  // [num_pages][page_vectors]
  int64_t num_pages;
  int64_t page_vectors;  // of 16 bytes
};

// Grid: [chunks of a page, copies, layers].
__global__ void __launch_bounds__(kThreads)
    CopyKvPagesKernel(__grid_constant__ const LayerPages pages, const PageCopy* copies) {
  const PageCopy copy = copies[blockIdx.y];
  if (copy.source < 0 || copy.source >= pages.num_pages) return;
  if (copy.destination < 0 || copy.destination >= pages.num_pages) return;
  uint4* const layer = pages.layers[blockIdx.z];
  const uint4* const from = layer + copy.source * pages.page_vectors;
  uint4* const to = layer + copy.destination * pages.page_vectors;
  const int64_t begin = int64_t{blockIdx.x} * kThreads * kVectorsAThread + threadIdx.x;
  uint4 held[kVectorsAThread];
#pragma unroll
  for (int i = 0; i < kVectorsAThread; ++i) {
    const int64_t at = begin + i * kThreads;
    if (at < pages.page_vectors) held[i] = from[at];
  }
#pragma unroll
  for (int i = 0; i < kVectorsAThread; ++i) {
    const int64_t at = begin + i * kThreads;
    if (at < pages.page_vectors) to[at] = held[i];
  }
}

void CheckLayers(std::span<const PagedKvCache> layers) {
  for (const PagedKvCache& layer : layers) {
    if (layer.data == nullptr) ThrowKernelError(kOp, "layers", "must have data, one is null");
    if (layer.num_pages == layers[0].num_pages &&
        layer.page_elements() == layers[0].page_elements()) {
      continue;
    }
    ThrowKernelError(kOp, "layers",
                     "must be of one shape, two have " + std::to_string(layers[0].num_pages) +
                         " pages of " + std::to_string(layers[0].page_elements()) + " and " +
                         std::to_string(layer.num_pages) + " of " +
                         std::to_string(layer.page_elements()) + " elements");
  }
}

}  // namespace

void CopyKvPages(std::span<const PageCopy> copies, std::span<const PagedKvCache> layers,
                 const Stream& stream) {
  CheckLayers(layers);
  if (copies.empty() || layers.empty()) return;
  const auto page_bytes = layers[0].page_elements() * int64_t{sizeof(__nv_bfloat16)};
  LayerPages pages = {};
  pages.num_pages = layers[0].num_pages;
  pages.page_vectors = page_bytes / int64_t{sizeof(uint4)};
  constexpr int64_t kChunk = kThreads * kVectorsAThread;
  const auto chunks = static_cast<unsigned>((pages.page_vectors + kChunk - 1) / kChunk);
  for (size_t first = 0; first < layers.size(); first += kMaxLayersALaunch) {
    const size_t count = std::min<size_t>(layers.size() - first, kMaxLayersALaunch);
    for (size_t i = 0; i < count; ++i) {
      pages.layers[i] = reinterpret_cast<uint4*>(layers[first + i].data);
    }
    const dim3 grid(chunks, static_cast<unsigned>(copies.size()), static_cast<unsigned>(count));
    CopyKvPagesKernel<<<grid, kThreads, 0, stream.cuda_stream()>>>(pages, copies.data());
    CheckLaunch(kOp);
  }
}

}  // namespace parallax::kernels::cuda
