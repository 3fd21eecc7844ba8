// Sampling one token per row of logits on the GPU, with the semantics of kernels/sampling.h:
// the same transforms in the same order, ties to the lower id, the same Philox draw.
//
// Masses are counted as integers, so that sums are exact whatever their order, or added up in one
// order: a row's token depends on its own logits and parameters alone, bit for bit. Greedy tokens are the CPU's. Drawn
// tokens follow the CPU's inversion of the cumulative distribution (in order of likelihood when
// min_p, top_k or top_p filter, of id otherwise), and differ from the CPU's only where u falls
// within the rounding of the masses (about 3e-6 of each) of a boundary between two tokens. What
// is less likely than the most likely token by a factor of exp(20) may never be drawn.
//
// Everything that varies from step to step is read on the device: a captured graph can be
// replayed with other contents. The runner fills pinned copies of `rows` and of the lists they
// refer to and copies them in one go. Values are the caller's promise (kernels/sampling.h has
// their ranges); an id outside the vocabulary in a list is ignored.
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes. What the data bring is a status
// of that row only.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_H_
#define PARALLAX_KERNELS_CUDA_SAMPLING_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/device_properties.h"
#include "kernels/sampling.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

inline constexpr int kMaxSampleVocab = 1 << 20;

struct DeviceSamplingRow {
  float temperature = 1.0f;  // as in SamplingRow
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t num_top_logprobs = 0;  // -1: not even the token's own is wanted (0.0 is stored)
  uint64_t seed = 0;
  uint32_t choice_index = 0;
  uint32_t position = 0;
  int32_t logits_index = 0;      // the row of logits; -1: no row, its result is token -1
  int32_t slot = -1;             // gets the token, and holds the counts; -1: none
  int32_t logit_bias_begin = 0;  // into SampleParams::logit_bias
  int32_t logit_bias_count = 0;
  int32_t banned_begin = 0;  // into SampleParams::banned_ids
  int32_t banned_count = 0;
  int32_t allowed_mask_begin = -1;  // first word in SampleParams::allowed_masks; -1: all allowed
  int32_t counts_tokens = 0;        // 1: apply penalties from the slot's counts, and count
};

// What penalties need, kept per slot between steps. Sampling adds the token it draws; the runner
// writes a slot's list when a sequence enters it. A list that is full drops new tokens.
struct TokenCountTable {
  TokenCount* entries = nullptr;  // [slots][capacity]
  int32_t* sizes = nullptr;       // [slots] entries in use
  int32_t capacity = 0;
};

struct SampleParams {
  ConstTensorView logits;                   // [logits rows, vocab] float32
  std::span<const DeviceSamplingRow> rows;  // all spans: device memory
  int64_t token_limit = 0;                  // ids >= this are outside the tokenizer
  const LogitBias* logit_bias = nullptr;    // each row's tokens at most once
  const int32_t* banned_ids = nullptr;
  const uint32_t* allowed_masks = nullptr;  // covering token_limit bits a row
  TokenCountTable token_counts;
  int32_t* slot_tokens = nullptr;  // [slots] last token; untouched on failure
  // [rows]; entries of `top` beyond top_count are left as they are. Only written: it may be
  // pinned memory of the host.
  std::span<SampleResult> results;
  std::span<std::byte> workspace;  // SampleWorkspaceBytes(), 16-byte aligned
};

// Enough for any batch up to max_rows: a copy of each row, for those whose logits are changed.
size_t SampleWorkspaceBytes(int64_t max_rows, int64_t vocab_size);

void Sample(const SampleParams& params, const DeviceProperties& device, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_H_
