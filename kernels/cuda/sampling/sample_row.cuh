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
#include "kernels/cuda/sampling/survey.cuh"
#include "kernels/philox.h"

namespace parallax::kernels::cuda {

template <typename Group>
struct SampleShared {
  GroupScratch<Group> scratch;
  TileCrossing crossing;
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
        shared_(shared),
        profile_(collective_, shared.profile, args.vocab) {
    const int begin = group.rank() * args.part;
    part_ = {Raw(), begin, max(0, min(begin + args.part, args.limit) - begin)};
  }

  __device__ void Run() {
    if (IsScribe()) {
      result_.status = SampleStatus::kOk;
      result_.token = -1;
      result_.logprob = 0.0f;
      result_.top_count = 0;
    }
    if (row_.logits_index < 0) return;
    if (HasTransforms(row_) && !TransformOwnCopy()) return;
    const int token = Choose();
    if (token < 0) return;
    if (IsScribe()) {
      result_.token = token;
      if (WantsLogprobs()) result_.logprob = static_cast<float>(Raw()[token] - log_sum_);
      if (row_.slot >= 0) args_.slot_tokens[row_.slot] = token;
    }
    if (row_.counts_tokens != 0 && group_.rank() == 0) CountToken(token);
    if (row_.num_top_logprobs > 0 && !has_top_) ListTopLogprobs();
  }

 private:
  __device__ bool IsScribe() const { return group_.rank() == 0 && threadIdx.x == 0; }
  __device__ const float* Raw() const {
    return args_.logits + max(0, row_.logits_index) * args_.stride;
  }
  __device__ bool IsRaw() const { return part_.row == Raw(); }

  __device__ bool WantsLogprobs() const { return row_.num_top_logprobs >= 0; }
  __device__ bool IsGreedy() const { return row_.temperature < kGreedyTemperature; }
  __device__ bool IsFiltered() const {
    return !IsGreedy() && (row_.top_k > 0 || row_.top_p < 1.0f || row_.min_p > 0.0f);
  }

  __device__ bool Fail(SampleStatus status) {
    if (IsScribe()) {
      result_.status = status;
      result_.top_count = 0;  // the raw logits may have been sound
    }
    return false;
  }

  // A pass over the raw logits has seen `seen` in this thread; if logprobs are wanted it has also
  // summed `scored` masses and listed likely elements. Whether the logits are sound; the row has
  // failed otherwise.
  __device__ bool SettleRaw(const Peak& seen, const MassScale& scored) {
    thread_max_ = seen.max;
    peak_ = seen.Reduce(collective_);
    raw_max_ = peak_.max;
    if (args_.limit < args_.vocab) {
      const float beyond = SumBeyond(scored);
      raw_max_ = FloatOfOrderedBits(
          static_cast<uint32_t>(collective_.Max(OrderedBits(fmaxf(raw_max_, beyond)))));
    }
    if (isinf(raw_max_)) return Fail(SampleStatus::kNan);
    if (WantsLogprobs()) SumScored(scored);
    if (row_.num_top_logprobs > 0) has_top_ = WriteTopOfList();
    return true;
  }

  // The first block's part in a pass: logits beyond the limit.
  __device__ float SumBeyond(const MassScale& scored) {
    if (group_.rank() > 0) return -CUDART_INF_F;
    const float max = SurveyBeyond(Raw(), args_.limit, args_.vocab, scored, &shared_.profile.sums);
    return isnan(max) ? CUDART_INF_F : max;
  }

  __device__ void SumScored(MassScale scored) {
    if (!scored.Suits(raw_max_)) {
      scored = MassScale::For(raw_max_, 1.0f);
      SurveyPart<false, true>({}, scored, CUDART_INF_F);
      if (args_.limit < args_.vocab) SumBeyond(scored);
      group_.Sync();
    }
    log_sum_ = LogSumExp(collective_, shared_.profile.sums, part_.tiles(),
                         args_.limit < args_.vocab, scored, raw_max_);
  }

  // From here on part_ is of the transformed logits. Whether the raw ones are sound.
  __device__ bool TransformOwnCopy() {
    MassScale scored = {};
    Peak seen;
    if (WantsLogprobs()) {
      const RowSample sample = SampleRow(collective_, part_.row, args_.limit);
      scored = MassScale::For(sample.max, 1.0f);
      profile_.EmptyList();
      seen = SurveyPart<false, true, true>({}, scored, sample.likely);
    } else {
      seen = SurveyPart<false, false, true>({}, {}, CUDART_INF_F);
    }
    if (!SettleRaw(seen, scored)) return false;
    part_.row = own_copy_;
    TransformLogits(args_, row_, part_, own_copy_);
    group_.Sync();
    return true;
  }

  // A pass for the choice, as SettleRaw if it is the first. Whether there is something to sample.
  __device__ bool Settle(const Peak& seen, const MassScale& scored) {
    if (!IsRaw()) {
      peak_ = seen.Reduce(collective_);
    } else if (!SettleRaw(seen, scored)) {
      return false;
    }
    if (peak_.max == CUDART_INF_F) return Fail(SampleStatus::kNan);
    return peak_.max > -CUDART_INF_F || Fail(SampleStatus::kNoTokenLeft);
  }

  // The token, in the first block, or -1 after a failure.
  __device__ int Choose() {
    const bool scores = WantsLogprobs() && IsRaw();
    if (IsGreedy() && !scores) {
      return Settle(SurveyPart<false, false>({}, {}, CUDART_INF_F), {}) ? peak_.id : -1;
    }
    const RowSample sample = SampleRow(collective_, part_.row, args_.limit);
    const MassScale scored = MassScale::For(sample.max, 1.0f);
    if (IsFiltered()) return DrawByLikelihood(sample, scores ? &scored : nullptr);
    profile_.EmptyList();
    if (IsGreedy()) {
      return Settle(SurveyPart<false, true>({}, scored, sample.likely), scored) ? peak_.id : -1;
    }
    MassScale drawn = MassScale::For(sample.max, row_.temperature);
    const Peak seen = scores ? SurveyPart<true, true>(drawn, scored, sample.likely)
                             : SurveyPart<true, false>(drawn, {}, CUDART_INF_F);
    if (!Settle(seen, scored)) return -1;
    if (!drawn.Suits(peak_.max)) {
      drawn = MassScale::For(peak_.max, row_.temperature);
      SurveyPart<true, false>(drawn, {}, CUDART_INF_F);
      group_.Sync();
    }
    return DrawById<Group>(collective_, shared_.crossing, drawn, peak_.max)
        .Draw(part_, args_.limit, shared_.profile.sums, Uniform());
  }

  template <bool kDraws, bool kScores, bool kCopies = false>
  __device__ Peak SurveyPart(const MassScale& drawn, const MassScale& scored, float likely) {
    return Survey<kDraws, kScores, kCopies>(part_, drawn, scored, likely, &shared_.profile.sums,
                                            &shared_.profile.list, own_copy_);
  }

  // `scored`: null if not wanted of this pass.
  __device__ int DrawByLikelihood(const RowSample& sample, const MassScale* scored) {
    const float temperature = row_.temperature;
    float likely = sample.likely;
    const float window_top = fminf(sample.likely, sample.max);
    ProfileBins bins =
        ProfileBins::For(sample.max + kHeadroom * temperature, temperature, window_top);
    ThreadCount seen = profile_.Count(part_, bins, likely, scored);
    const Peak peak = {isnan(seen.max) ? CUDART_INF_F : seen.max, 0};
    if (!Settle(peak, scored != nullptr ? *scored : MassScale{})) return -1;
    const bool held = profile_.Holds(bins, peak_.max);
    const bool needs_counts = row_.top_k > 0 && profile_.ListSize() < row_.top_k;
    if (!held) {
      // A little above: the place of the top is rounded.
      bins = ProfileBins::For(peak_.max + temperature + 1e-6f * fabsf(peak_.max), temperature,
                              window_top);
    }
    if (!held || needs_counts) {
      if (needs_counts) likely = CUDART_INF_F;
      group_.Sync();  // another block may still read what is cleared
      seen = needs_counts ? profile_.CountWithCounts(part_, bins)
                          : profile_.Count(part_, bins, likely, nullptr);
      group_.Sync();
    }
    if (profile_.Holds(bins, peak_.max)) {
      const LikelihoodFilters filters{MinPLogit(), row_.top_k, row_.top_p};
      const int token = profile_.Draw(part_, bins, peak_.max, likely, seen.added, needs_counts,
                                      filters, Uniform());
      if (token != profile_.kTooMany) return token;
    }
    return DrawByRanking();
  }

  __device__ __noinline__ int DrawByRanking() {
    group_.Sync();
    Ranker<Group> ranker(collective_, shared_.ranking, part_);
    const float range = MassWeight::kRange * row_.temperature;
    const ByLikelihood order{peak_.max, kBins / range};
    Cut cut;
    cut.logit = fmaxf(fmaxf(cut.logit, peak_.max - range), MinPLogit());
    if (row_.top_k > 0) {
      Ranking<Group, CountWeight> ranking(ranker, order, CountWeight(), cut);
      if (row_.top_k < ranking.total()) cut = CutAt(ranking.Find(row_.top_k));
    }
    Ranking<Group, MassWeight> ranking(ranker, order, {peak_.max, 1.44269504f / row_.temperature},
                                       cut);
    uint64_t kept = ranking.total();
    if (row_.top_p < 1.0f) {
      const auto target = static_cast<uint64_t>(ceil(row_.top_p * static_cast<double>(kept)));
      kept = ranking.Find(min(target, kept)).through;
    }
    // The first element with more than the uniform number's share of the kept mass up to it.
    const auto below = static_cast<uint64_t>(Uniform() * static_cast<double>(kept));
    return IdOfKey(ranking.Find(min(below + 1, kept)).key);
  }

  static __device__ Cut CutAt(const RankedElement& last) {
    return {LogitOfKey(last.key), IdOfKey(last.key)};
  }

  __device__ double Uniform() const {
    return UniformDraw(row_.seed, row_.choice_index, row_.position);
  }

  // What min_p keeps is no less.
  __device__ float MinPLogit() const {
    if (row_.min_p <= 0.0f) return -CUDART_INF_F;
    const double log_min_p = log(static_cast<double>(row_.min_p));
    return static_cast<float>(peak_.max + static_cast<double>(row_.temperature) * log_min_p);
  }

  // The most likely by the raw logits, in order, if a pass has listed as many. After a barrier.
  __device__ bool WriteTopOfList() {
    const int size = profile_.ListSize();
    if (size < row_.num_top_logprobs) return false;
    WriteTop(size);
    return true;
  }

  // By a pass of its own.
  __device__ void ListTopLogprobs() {
    group_.Sync();
    const RowPart raw = {Raw(), part_.begin, part_.size};
    const float least = LeastOfTop(row_.num_top_logprobs);
    profile_.EmptyList();
    ListFrom(raw, least, &shared_.profile.list);
    group_.Sync();
    const int size = profile_.ListSize();
    if (size == profile_.kTooMany) return ListTopByRanking(raw);
    WriteTop(size);
  }

  __device__ void WriteTop(int listed) {
    if (group_.rank() > 0) return;
    profile_.SortList();
    const int count = min(row_.num_top_logprobs, listed);
    if (threadIdx.x < count) WriteLogprob(threadIdx.x, shared_.profile.list.keys[threadIdx.x]);
    if (threadIdx.x == 0) result_.top_count = count;
  }

  // A finite logit that `wanted` raw ones reach, if there are as many finite ones: so many threads
  // of a block have seen one at least.
  __device__ float LeastOfTop(int wanted) {
    const uint32_t own = OrderedBits(thread_max_);
    uint32_t bits = 0;
    for (int bit = 31; bit >= 0; --bit) {
      const uint32_t trial = bits | 1u << bit;
      if (__syncthreads_count(own >= trial) >= wanted) bits = trial;
    }
    const auto all = static_cast<uint32_t>(collective_.Max(bits));
    return fmaxf(FloatOfOrderedBits(max(all, OrderedBits(-FLT_MAX))), -FLT_MAX);
  }

  __device__ __noinline__ void ListTopByRanking(const RowPart& raw) {
    group_.Sync();
    Ranker<Group> ranker(collective_, shared_.ranking, raw);
    const ByLikelihood order{raw_max_, kBins / MassWeight::kRange};
    Ranking<Group, CountWeight> ranking(ranker, order, CountWeight(), Cut());
    const int count = static_cast<int>(min(uint64_t(row_.num_top_logprobs), ranking.total()));
    const Cut cut = CutAt(ranking.Find(count));
    ranker.EmptyList();
    ranker.Gather([=](float logit, int id) { return cut.Keeps(logit, id) ? 0 : kNoBin; }, 0,
                  CountWeight());
    if (group_.rank() == 0 && threadIdx.x < count) {
      const uint64_t key = ranker.listed_key(threadIdx.x);
      int rank = 0;
      for (int i = 0; i < count; ++i) rank += ranker.listed_key(i) < key;
      WriteLogprob(rank, key);
    }
    if (IsScribe()) result_.top_count = count;
  }

  __device__ void WriteLogprob(int rank, uint64_t key) {
    result_.top[rank] = {IdOfKey(key), static_cast<float>(LogitOfKey(key) - log_sum_)};
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

  const SampleArgs& args_;
  const DeviceSamplingRow& row_;
  SampleResult& result_;
  float* const own_copy_;  // of the row
  const Group group_;
  Collective<Group> collective_;
  SampleShared<Group>& shared_;
  LikelihoodProfile<Group> profile_;
  RowPart part_;             // of the logits as they are at the moment
  Peak peak_;                // of part_'s row, below the limit
  float raw_max_ = 0.0f;     // of all raw logits
  float thread_max_ = 0.0f;  // of the raw ones below the limit that this thread saw
  double log_sum_ = 0.0;     // of exp(raw logit)
  bool has_top_ = false;     // the top logprobs are written
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ROW_CUH_
