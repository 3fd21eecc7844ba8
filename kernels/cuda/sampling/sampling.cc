#include "kernels/cuda/sampling.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/sampling/sample_args.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "Sample";

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Elements of a row that each of `blocks` owns.
int64_t PartSize(int64_t limit, int blocks) {
  return RoundUp((limit + blocks - 1) / blocks, kSampleTile);
}

int64_t WorkspaceStride(int64_t vocab_size) { return RoundUp(vocab_size, 4); }

// Few rows are shared by more blocks. Half the SMs do as well as all of them, as fewer blocks wait
// for each other at less cost; measured.
int BlocksARow(const DeviceProperties& device, int64_t rows) {
  if (!device.is_hopper()) return 1;
  if (rows * 8 <= device.num_sms / 2) return 8;
  if (rows * 4 <= device.num_sms / 2) return 4;
  return rows * 2 <= device.num_sms ? 2 : 1;
}

void CheckParams(const SampleParams& params, const Stream& stream) {
  const int64_t vocab_size = params.logits.shape[1];
  CheckTensor(kOp, "logits", params.logits, DType::kFloat32, {kAnyExtent, kAnyExtent}, stream);
  CheckAtLeast(kOp, "vocabulary", vocab_size, 1);
  Check(vocab_size <= kMaxSampleVocab, kOp, "vocabulary", "at most 2^20",
        static_cast<double>(vocab_size));
  Check(params.logits.strides[0] % 4 == 0, kOp, "logits", "rows a multiple of 4 elements apart",
        static_cast<double>(params.logits.strides[0]));
  Check(reinterpret_cast<uintptr_t>(params.logits.data) % 16 == 0, kOp, "logits",
        "16-byte aligned; address modulo 16",
        static_cast<double>(reinterpret_cast<uintptr_t>(params.logits.data) % 16));
  const int64_t rows = static_cast<int64_t>(params.rows.size());
  CheckAtLeast(kOp, "token_limit", params.token_limit, 1);
  CheckAtLeast(kOp, "results", static_cast<int64_t>(params.results.size()), rows);
  CheckAtLeast(kOp, "workspace bytes", static_cast<int64_t>(params.workspace.size()),
               static_cast<int64_t>(SampleWorkspaceBytes(rows, vocab_size)));
  Check(reinterpret_cast<uintptr_t>(params.workspace.data()) % 16 == 0, kOp, "workspace",
        "16-byte aligned; address modulo 16",
        static_cast<double>(reinterpret_cast<uintptr_t>(params.workspace.data()) % 16));
}

}  // namespace

size_t SampleWorkspaceBytes(int64_t max_rows, int64_t vocab_size) {
  return sizeof(float) * static_cast<size_t>(max_rows * WorkspaceStride(vocab_size));
}

void Sample(const SampleParams& params, const DeviceProperties& device, const Stream& stream) {
  if (params.rows.empty()) return;
  CheckParams(params, stream);
  const int64_t vocab_size = params.logits.shape[1];
  const int blocks = BlocksARow(device, static_cast<int64_t>(params.rows.size()));
  SampleArgs args = {};
  args.logits = params.logits.as<float>();
  args.stride = params.logits.strides[0];
  args.vocab = static_cast<int>(vocab_size);
  args.limit = static_cast<int>(std::min(vocab_size, params.token_limit));
  args.part = static_cast<int>(PartSize(args.limit, blocks));
  args.rows = params.rows.data();
  args.num_rows = static_cast<int>(params.rows.size());
  args.logit_bias = params.logit_bias;
  args.banned_ids = params.banned_ids;
  args.allowed_masks = params.allowed_masks;
  args.token_counts = params.token_counts;
  args.slot_tokens = params.slot_tokens;
  args.results = params.results.data();
  args.workspace = reinterpret_cast<float*>(params.workspace.data());
  args.workspace_stride = WorkspaceStride(vocab_size);
  if (blocks > 1) {
    LaunchSampleCluster(args, blocks, stream.cuda_stream());
  } else {
    LaunchSampleBlock(args, stream.cuda_stream());
  }
}

}  // namespace parallax::kernels::cuda
