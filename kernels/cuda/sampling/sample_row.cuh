// One row of logits, sampled by a Group of blocks. kernels/cuda/sampling.h has the contract.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_

#include <math_constants.h>

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/sampling/logit_transforms.cuh"
#include "kernels/cuda/sampling/ranking.cuh"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/philox.h"

namespace parallax::kernels::cuda {

template <typename Group>
class RowSampler {
 public:
  __device__ RowSampler(const SampleArgs& args, int row_index, Group group,
                        RankingShared<Group>& shared, float* logits)
      : args_(args),
        row_(args.rows[row_index]),
        result_(args.results[row_index]),
        group_(group),
        part_{logits, group.rank() * args.part,
              max(0, min(args.part, args.vocab - group.rank() * args.part))},
        ranker_(group, shared, part_) {}

  __device__ void Run() {
    const bool is_scribe = ranker_.IsLeader() && threadIdx.x == 0;
    if (is_scribe) {
      result_.status = SampleStatus::kOk;
      result_.token = -1;
      result_.logprob = 0.0f;
      result_.top_count = 0;
    }
    if (row_.logits_index < 0) return;
    raw_ = args_.logits + row_.logits_index * args_.stride;
    const float raw_max = LoadPart();
    if (isinf(raw_max)) return Fail(SampleStatus::kNan);
    const double log_sum = row_.num_top_logprobs >= 0 ? LogSumExp(raw_max) : 0.0;
    DropIdsOutsideTheLimit();
    if (row_.num_top_logprobs > 0) ListTopLogprobs(raw_max, log_sum);
    float max = raw_max;
    if (HasTransforms(row_)) TransformLogits(args_, row_, part_);
    if (HasTransforms(row_) || args_.limit < args_.vocab) max = MaxLogit();
    if (max == -CUDART_INF_F) return Fail(SampleStatus::kNoTokenLeft);
    if (max == CUDART_INF_F) return Fail(SampleStatus::kNan);
    const int token = row_.temperature < kGreedyTemperature ? LowestIdOf(max) : Draw(max);
    if (!ranker_.IsLeader()) return;
    if (is_scribe) {
      result_.token = token;
      if (row_.num_top_logprobs >= 0) {
        result_.logprob = static_cast<float>(raw_[token] - log_sum);
      }
      if (row_.slot >= 0) args_.slot_tokens[row_.slot] = token;
    }
    if (row_.counts_tokens != 0) CountToken(token);
  }

 private:
  __device__ void Fail(SampleStatus status) {
    if (ranker_.IsLeader() && threadIdx.x == 0) result_.status = status;
  }

  // A logit's place among floats as the CPU's maximum sees it.
  static __device__ float NanAsInfinity(float logit) { return isnan(logit) ? CUDART_INF_F : logit; }

  __device__ float MaxOfRow(float max) {
    return FloatOfOrderedBits(static_cast<uint32_t>(ranker_.collective().Max(OrderedBits(max))));
  }

  // Copies this block's part of the row; the maximum of the row.
  __device__ float LoadPart() {
    constexpr int kUnroll = 5;
    constexpr int kStep = 4 * kSampleThreads;
    float max = -CUDART_INF_F;
    const auto keep = [&](int i, const float4& four) {
      *reinterpret_cast<float4*>(part_.logits + i) = four;
      max = fmaxf(max, fmaxf(fmaxf(NanAsInfinity(four.x), NanAsInfinity(four.y)),
                             fmaxf(NanAsInfinity(four.z), NanAsInfinity(four.w))));
    };
    const float* const from = raw_ + part_.begin;
    const int whole = part_.size & ~3;
    int i = 4 * threadIdx.x;
    for (; i + (kUnroll - 1) * kStep < whole; i += kUnroll * kStep) {
      float4 fours[kUnroll];
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        fours[j] = __ldcs(reinterpret_cast<const float4*>(from + i + j * kStep));
      }
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) keep(i + j * kStep, fours[j]);
    }
    for (; i < whole; i += kStep) keep(i, __ldcs(reinterpret_cast<const float4*>(from + i)));
    if (i == whole && whole < part_.size) {
      const auto value = [&](int j) { return j < part_.size ? from[j] : -CUDART_INF_F; };
      keep(i, make_float4(value(i), value(i + 1), value(i + 2), value(i + 3)));
    }
    return MaxOfRow(max);
  }

  // Of the transformed logits.
  __device__ float MaxLogit() {
    float max = -CUDART_INF_F;
    part_.ForEach([&](float logit, int) { max = fmaxf(max, NanAsInfinity(logit)); });
    return MaxOfRow(max);
  }

  // Summed as integers, so that the order does not matter. REQUIRES: `max` is finite.
  __device__ double LogSumExp(float max) {
    constexpr float kUnitBits = 44.0f;  // the sum over 2^19 tokens stays below 2^63
    uint64_t sum = 0;
    part_.ForEach([&](float logit, int) {
      float mass;
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(mass) : "f"((logit - max) * kLog2E + kUnitBits));
      sum += __float2ull_rn(mass);
    });
    sum = ranker_.collective().Sum(sum);
    return max + log(static_cast<double>(sum) * 0x1p-44);
  }

  __device__ void DropIdsOutsideTheLimit() {
    if (args_.limit >= args_.vocab) return;
    __syncthreads();
    for (int i = max(0, args_.limit - part_.begin) + threadIdx.x; i < part_.size;
         i += kSampleThreads) {
      part_.logits[i] = -CUDART_INF_F;
    }
    __syncthreads();
  }

  // The most likely by the raw logits, in order.
  __device__ void ListTopLogprobs(float raw_max, double log_sum) {
    const ByLikelihood order{raw_max, kBins / MassWeight::kRange};
    Ranking<Group, ByLikelihood, CountWeight> ranking(ranker_, order, CountWeight(), Cut());
    const int count = static_cast<int>(min(uint64_t(row_.num_top_logprobs), ranking.total()));
    if (count == 0) return;
    const uint64_t last = ranking.Find(count).key;
    const Cut cut{LogitOfKey(last), IdOfKey(last)};
    ranker_.EmptyList();
    ranker_.Gather([=](float logit, int id) { return cut.Keeps(logit, id) ? 0 : kNoBin; }, 0,
                   CountWeight(), ByLikelihood::Key);
    if (ranker_.IsLeader() && threadIdx.x < count) {
      const uint64_t key = ranker_.listed_key(threadIdx.x);
      int rank = 0;
      for (int i = 0; i < count; ++i) rank += ranker_.listed_key(i) < key;
      result_.top[rank] = {IdOfKey(key), static_cast<float>(LogitOfKey(key) - log_sum)};
      if (threadIdx.x == 0) result_.top_count = count;
    }
    group_.Sync();
  }

  __device__ int LowestIdOf(float logit) {
    uint64_t lowest = ~uint64_t{0};
    part_.ForEach([&](float l, int id) {
      if (l == logit) lowest = min(lowest, uint64_t(id));
    });
    return static_cast<int>(ranker_.collective().Min(lowest));
  }

  __device__ int Draw(float max) {
    const double uniform = UniformDraw(row_.seed, row_.choice_index, row_.position);
    const MassWeight mass{max, kLog2E / row_.temperature};
    // The first element with more than `uniform` of the kept mass up to it.
    const auto draw_from = [&](auto& ranking, uint64_t kept) {
      const uint64_t below = static_cast<uint64_t>(uniform * static_cast<double>(kept));
      return IdOfKey(ranking.Find(min(below + 1, kept)).key);
    };
    if (row_.top_k <= 0 && row_.top_p >= 1.0f && row_.min_p <= 0.0f) {
      const int id_bits = 32 - __clz(args_.vocab - 1);
      const ById order{id_bits > kBinBits ? id_bits - kBinBits : 0};
      Ranking<Group, ById, MassWeight> ranking(ranker_, order, mass, Cut());
      return draw_from(ranking, ranking.total());
    }
    const float range = MassWeight::kRange * row_.temperature;
    const ByLikelihood order{max, kBins / range};
    const Cut cut = TopK(order, MinP(max, range));
    Ranking<Group, ByLikelihood, MassWeight> ranking(ranker_, order, mass, cut);
    uint64_t kept = ranking.total();
    if (row_.top_p < 1.0f) {
      const auto target = static_cast<uint64_t>(ceil(row_.top_p * static_cast<double>(kept)));
      kept = ranking.Find(min(target, kept)).through;
    }
    return draw_from(ranking, kept);
  }

  // What has any mass, and by min_p enough of it.
  __device__ Cut MinP(float max, float range) const {
    Cut cut;
    cut.logit = fmaxf(cut.logit, max - range);
    if (row_.min_p > 0.0f) {
      const double log_min_p = log(static_cast<double>(row_.min_p));
      cut.logit = fmaxf(cut.logit, static_cast<float>(max + double(row_.temperature) * log_min_p));
    }
    return cut;
  }

  __device__ Cut TopK(const ByLikelihood& order, Cut cut) {
    if (row_.top_k <= 0) return cut;
    Ranking<Group, ByLikelihood, CountWeight> ranking(ranker_, order, CountWeight(), cut);
    if (row_.top_k >= ranking.total()) return cut;
    const uint64_t last = ranking.Find(row_.top_k).key;
    return {LogitOfKey(last), IdOfKey(last)};
  }

  // Called by the first block.
  __device__ void CountToken(int token) {
    const TokenCountTable& table = args_.token_counts;
    TokenCount* const entries = table.entries + static_cast<int64_t>(row_.slot) * table.capacity;
    const int size = table.sizes[row_.slot];
    bool found = false;
    for (int i = threadIdx.x; i < size; i += kSampleThreads) {
      if (entries[i].token != token) continue;
      ++entries[i].output_count;
      found = true;
    }
    if (__syncthreads_or(found) || threadIdx.x > 0 || size >= table.capacity) return;
    entries[size] = {token, 1};
    table.sizes[row_.slot] = size + 1;
  }

  static constexpr float kLog2E = 1.44269504f;

  const SampleArgs& args_;
  const DeviceSamplingRow& row_;
  SampleResult& result_;
  Group group_;
  const RowPart part_;
  Ranker<Group> ranker_;
  const float* raw_ = nullptr;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_
