// One row of logits, sampled by a Group of blocks. kernels/cuda/sampling.h has the contract.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_

#include <math_constants.h>

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/sampling/likelihood_profile.cuh"
#include "kernels/cuda/sampling/logit_transforms.cuh"
#include "kernels/cuda/sampling/ranking.cuh"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/philox.h"

namespace parallax::kernels::cuda {

template <typename Group>
struct SampleShared {
  GroupScratch<Group> scratch;
  union {
    RankingShared ranking;
    ProfileShared profile;
  };
};

template <typename Group>
class RowSampler {
 public:
  __device__ RowSampler(const SampleArgs& args, int row_index, Group group,
                        SampleShared<Group>& shared)
      : args_(args),
        row_(args.rows[row_index]),
        result_(args.results[row_index]),
        own_copy_(args.workspace + row_index * args.workspace_stride),
        group_(group),
        collective_(group, shared.scratch),
        part_(PartOf(args, row_, group.rank() * args.part)),
        ranker_(collective_, shared.ranking, part_),
        profile_(collective_, shared.profile, part_, args.vocab) {}

  __device__ void Run() {
    const bool is_scribe = ranker_.IsLeader() && threadIdx.x == 0;
    if (is_scribe) {
      result_.status = SampleStatus::kOk;
      result_.token = -1;
      result_.logprob = 0.0f;
      result_.top_count = 0;
    }
    if (row_.logits_index < 0) return;
    const bool wants_logprobs = row_.num_top_logprobs >= 0;
    double log_sum = 0.0;
    if (wants_logprobs || HasTransforms(row_)) {
      peak_ = FindPeak();
      if (isinf(peak_.raw_max)) return Fail(SampleStatus::kNan);
      if (wants_logprobs) log_sum = LogSumExp(peak_.raw_max);
      if (row_.num_top_logprobs > 0) ListTopLogprobs(log_sum);
    }
    if (HasTransforms(row_)) TransformOwnCopy();
    const int token = IsFiltered() ? DrawByLikelihood() : GreedyOrDrawById();
    if (token < 0 || !ranker_.IsLeader()) return;
    if (is_scribe) {
      result_.token = token;
      if (wants_logprobs) result_.logprob = static_cast<float>(Raw()[token] - log_sum);
      if (row_.slot >= 0) args_.slot_tokens[row_.slot] = token;
    }
    if (row_.counts_tokens != 0) CountToken(token);
  }

 private:
  __device__ static RowPart PartOf(const SampleArgs& args, const DeviceSamplingRow& row,
                                   int begin) {
    const int end = min(begin + args.part, args.vocab);
    const int size = max(0, min(end, args.limit) - begin);
    return {args.logits + max(0, row.logits_index) * args.stride, begin, size,
            max(0, end - begin - size)};
  }

  __device__ const float* Raw() const { return args_.logits + row_.logits_index * args_.stride; }

  __device__ bool IsGreedy() const { return row_.temperature < kGreedyTemperature; }
  __device__ bool IsFiltered() const {
    return !IsGreedy() && (row_.top_k > 0 || row_.top_p < 1.0f || row_.min_p > 0.0f);
  }

  __device__ void Fail(SampleStatus status) {
    if (ranker_.IsLeader() && threadIdx.x == 0) result_.status = status;
  }

  __device__ Peak FindPeak() {
    Peak peak;
    part_.ForEach([&](float logit, int id) { peak.See(logit, id); });
    part_.ForEachBeyond([&](float logit) { peak.SeeBeyondLimit(logit); });
    return peak.Reduce(collective_);
  }

  // Whether there is something to sample; the row has failed otherwise.
  __device__ bool CheckPeak() {
    if (peak_.raw_max == CUDART_INF_F || (!HasTransforms(row_) && isinf(peak_.raw_max))) {
      Fail(SampleStatus::kNan);
      return false;
    }
    if (peak_.max == -CUDART_INF_F) Fail(SampleStatus::kNoTokenLeft);
    return peak_.max > -CUDART_INF_F;
  }

  // Summed as integers, so that the order does not matter. REQUIRES: `max` is finite.
  __device__ double LogSumExp(float max) {
    constexpr float kUnitBits = 44.0f;  // the sum over 2^19 tokens stays below 2^63
    uint64_t sum = 0;
    const auto add = [&](float logit) {
      float mass;
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(mass) : "f"((logit - max) * kLog2E + kUnitBits));
      sum += __float2ull_rn(mass);
    };
    part_.ForEach([&](float logit, int) { add(logit); });
    part_.ForEachBeyond(add);
    sum = collective_.Sum(sum);
    return max + log(static_cast<double>(sum) * 0x1p-44);
  }

  // From here on part_ is of the transformed logits.
  __device__ void TransformOwnCopy() {
    part_.ForEachFour([&](const float(&logits)[4], int id) {
      *reinterpret_cast<float4*>(own_copy_ + id) =
          make_float4(logits[0], logits[1], logits[2], logits[3]);
    });
    part_.row = own_copy_;
    part_.beyond = 0;
    TransformLogits(args_, row_, part_, own_copy_);
  }

  // The most likely by the raw logits, in order.
  __device__ void ListTopLogprobs(double log_sum) {
    const ByLikelihood order{peak_.raw_max, kBins / MassWeight::kRange};
    Ranking<Group, ByLikelihood, CountWeight> ranking(ranker_, order, CountWeight(), Cut());
    const int count = static_cast<int>(min(uint64_t(row_.num_top_logprobs), ranking.total()));
    if (count == 0) return;
    const uint64_t last = ranking.Find(count).key;
    const Cut cut{LogitOfKey(last), IdOfKey(last)};
    ranker_.EmptyList();
    ranker_.Gather(
        part_, [=](float logit, int id) { return cut.Keeps(logit, id) ? 0 : kNoBin; }, 0,
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

  // The token, or -1 after a failure.
  __device__ int GreedyOrDrawById() {
    const bool is_known = row_.num_top_logprobs >= 0 && !HasTransforms(row_);
    if (!is_known) peak_ = FindPeak();
    if (!CheckPeak()) return -1;
    if (IsGreedy()) return peak_.id;
    const int id_bits = 32 - __clz(args_.vocab - 1);
    const ById order{id_bits > kBinBits ? id_bits - kBinBits : 0};
    Ranking<Group, ById, MassWeight> ranking(ranker_, order, Mass(), Cut());
    return DrawFrom(ranking, ranking.total());
  }

  // The token, in the first block, or -1 after a failure.
  __device__ int DrawByLikelihood() {
    const float temperature = row_.temperature;
    ProfileBins bins =
        ProfileBins::For(profile_.SampleMax() + kHeadroom * temperature, temperature);
    peak_ = profile_.Count(bins, row_.top_k > 0);
    if (!CheckPeak()) return -1;
    if (peak_.max > bins.top || bins.Bin(peak_.max) == kNoMassBin) {
      bins = ProfileBins::For(peak_.max, temperature);
      profile_.Count(bins, row_.top_k > 0);
    }
    const LikelihoodFilters filters{MinPLogit(), row_.top_k, row_.top_p};
    const int token = profile_.Draw(bins, peak_, filters, Uniform());
    if (token != LikelihoodProfile<Group>::kTooMany) return token;
    group_.Sync();
    return DrawByRanking();
  }

  __device__ int DrawByRanking() {
    const float range = MassWeight::kRange * row_.temperature;
    const ByLikelihood order{peak_.max, kBins / range};
    Cut cut;
    cut.logit = fmaxf(fmaxf(cut.logit, peak_.max - range), MinPLogit());
    cut = TopK(order, cut);
    Ranking<Group, ByLikelihood, MassWeight> ranking(ranker_, order, Mass(), cut);
    uint64_t kept = ranking.total();
    if (row_.top_p < 1.0f) {
      const auto target = static_cast<uint64_t>(ceil(row_.top_p * static_cast<double>(kept)));
      kept = ranking.Find(min(target, kept)).through;
    }
    return DrawFrom(ranking, kept);
  }

  // The first element with more than the uniform number's share of the kept mass up to it.
  template <typename Order>
  __device__ int DrawFrom(Ranking<Group, Order, MassWeight>& ranking, uint64_t kept) {
    const uint64_t below = static_cast<uint64_t>(Uniform() * static_cast<double>(kept));
    return IdOfKey(ranking.Find(min(below + 1, kept)).key);
  }

  __device__ double Uniform() const {
    return UniformDraw(row_.seed, row_.choice_index, row_.position);
  }
  __device__ MassWeight Mass() const { return {peak_.max, kLog2E / row_.temperature}; }

  // What min_p keeps is no less.
  __device__ float MinPLogit() const {
    if (row_.min_p <= 0.0f) return -CUDART_INF_F;
    const double log_min_p = log(static_cast<double>(row_.min_p));
    return static_cast<float>(peak_.max + static_cast<double>(row_.temperature) * log_min_p);
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
  float* const own_copy_;  // of the row
  const Group group_;
  Collective<Group> collective_;
  RowPart part_;
  Ranker<Group> ranker_;
  LikelihoodProfile<Group> profile_;
  Peak peak_;  // of the logits as they are at the moment
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_
