// Who reads what: the division of a decode batch's pages over clusters and their CTAs.
//
// A unit is one block of query rows of one (sequence, KV head); its work is the pages those
// rows see. Units in order of (sequence, KV head, row block) make one long row of pages, which
// is cut into equal slices, one a cluster; the part of a unit inside a slice is a segment. Every
// CTA works this out for itself from the lengths in device memory.
//
// A unit's start (lengths, rows and the first page, one wait after another) takes time in which
// pages could be read, so a unit counts for unit_cost pages more than it has, at its front.
//
// Cutting a unit costs a merge through global memory. So where whole units give slices that
// are hardly longer, clusters take whole units, in turns: units that are read at one time are
// neighbours in memory. Every second round goes backwards (SnakeTurn), so that sequences ordered
// by length give slices of nearly equal sums.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_decode.h"
#include "kernels/cuda/ptx/for_sanitizer.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/kv_cache_view.h"

namespace parallax::kernels::cuda {

// What one sequence's rows see.
struct SequenceSpan {
  int first_row;   // of q, r and out
  int query_len;   // rows
  int context;     // keys
  int first_page;  // of num_pages that hold a visible key
  int num_pages;
};

__device__ inline SequenceSpan SpanOfSequence(const DecodeArgs& args, int sequence) {
  SequenceSpan span;
  span.context = args.context_len[sequence];
  span.first_row = args.query_start ? args.query_start[sequence] : sequence;
  span.query_len = args.query_start ? args.query_start[sequence + 1] - span.first_row : 1;
  const int first_key =
      args.sliding_window > 0 ? span.context - span.query_len - args.sliding_window + 1 : 0;
  span.first_page = first_key > 0 ? first_key / kPageSize : 0;
  const int end_page = (span.context + kPageSize - 1) / kPageSize;
  span.num_pages =
      span.query_len > 0 && end_page > span.first_page ? end_page - span.first_page : 0;
  return span;
}

// Whatever thread runs this, one line each: all that the plan reads of a long batch.
__device__ inline void PrefetchLengths(const DecodeArgs& args) {
  const int sequence = threadIdx.x * 32;
  if (sequence < args.batch) Prefetch(args.context_len + sequence);
}

inline constexpr int kPlanThreads = 128;
inline constexpr int kPlanWarps = kPlanThreads / 32;
inline constexpr int kMaxPlanWarps = 5;  // of a CTA

__device__ inline int UnitsASequence(const DecodeArgs& args) {
  return static_cast<int>(args.units_a_sequence.value);
}

// What a unit of the sequence counts for in the row of pages.
__device__ inline int ChargedPages(const DecodeArgs& args, const SequenceSpan& span) {
  return span.num_pages > 0 ? span.num_pages + args.unit_cost : 0;
}

// Charged pages of one unit of each sequence.
struct BatchPages {
  int of_lane;  // of the warp's first 32 sequences
  int sum;
  int most;
  int least;
};

// By every warp for itself. Where `most` is at most `all_short`, sum and least are not worked out.
__device__ inline BatchPages PagesOfBatch(const DecodeArgs& args, int all_short) {
  const int lane = threadIdx.x % 32;
  BatchPages pages = {0, 0, 0, INT32_MAX};
  for (int first = 0; first < args.batch; first += 32) {
    const int sequence = first + lane;
    if (sequence >= args.batch) break;
    const int charged = ChargedPages(args, SpanOfSequence(args, sequence));
    if (first == 0) pages.of_lane = charged;
    pages.sum += charged;
    pages.most = max(pages.most, charged);
    pages.least = min(pages.least, charged);
  }
  pages.most = __reduce_max_sync(~0u, pages.most);
  if (pages.most <= all_short) return pages;
  pages.sum = __reduce_add_sync(~0u, pages.sum);
  pages.least = __reduce_min_sync(~0u, pages.least);
  return pages;
}

// What one of several takers takes of a row that is dealt out, one each a round, every second
// round backwards: of n, taker i takes i, 2n - 1 - i, 2n + i, ...
struct SnakeTurn {
  int next;
  int step;

  __device__ static SnakeTurn Of(int taker, int takers) {
    return {taker, 2 * (takers - taker) - 1};
  }
  __device__ void Advance(int takers) {
    next += step;
    step = 2 * takers - step;
  }
};

// Charged pages of the fullest slice where whole units are dealt out to all clusters. The slices
// that begin with one sequence's units go on with those of one sequence each round: a group, whose
// slices are equally full. By every warp for itself, a lane a group; the lengths have been read
// before and are near.
__device__ inline int FullestSlice(const DecodeArgs& args) {
  int fullest = 0;
  for (int group = threadIdx.x % 32; group < args.slice_groups; group += 32) {
    int pages = 0;
    for (SnakeTurn turn = SnakeTurn::Of(group, args.slice_groups); turn.next < args.batch;
         turn.Advance(args.slice_groups)) {
      pages += ChargedPages(args, SpanOfSequence(args, turn.next));
    }
    fullest = max(fullest, pages);
  }
  return __reduce_max_sync(~0u, fullest);
}

// The slices of a batch whose units are cut, in charged pages.
struct DecodePlan {
  int num_slices;   // clusters that have work
  int slice_pages;  // of a slice; the first `longer_slices` have one more
  int longer_slices;
  const int* pages_before;  // [batch + 1], shared memory: before each sequence, of one unit each

  // The slice that page `x` of the row of pages falls in.
  __device__ int SliceOfPage(int x) const {
    const int longer_end = longer_slices * (slice_pages + 1);
    return x < longer_end ? x / (slice_pages + 1) : longer_slices + (x - longer_end) / slice_pages;
  }
  __device__ int SliceBegin(int slice) const {
    return slice * slice_pages + min(slice, longer_slices);
  }
};

// Sequences that a launch of clusters may have: each is a unit or more, and many units go to
// single CTAs.
inline constexpr int kMaxClusterBatch = 128;

// Shared memory of the plan.
template <int kClusterSize>
struct PlanStorage {
  static constexpr int kMaxBatch = kClusterSize == 1 ? kMaxDecodeBatch : kMaxClusterBatch;
  static constexpr int kWords =
      kMaxBatch + 1 > kMaxPlanWarps * 33 ? kMaxBatch + 1 : kMaxPlanWarps * 33;
  int pages_before[kWords];  // of a short batch, each warp's own 33
  int warp_sums[kPlanWarps];
  DecodePlan plans[kMaxPlanWarps];
};

// Where no unit has more charged pages than this, whole units win whatever the sum. Never where
// there are more units than clusters.
template <int kClusterSize>
__device__ int WholePages(const DecodeArgs& args) {
  return args.units_a_cluster == 1 ? kClusterSize * (args.cut_rule.cut_cost + 1) : -1;
}

// Whether units are read whole (WholeUnitsWin). `pages`: of PagesOfBatch(WholePages()).
template <int kClusterSize>
__device__ bool TakesWholeUnits(const DecodeArgs& args, const BatchPages& pages) {
  if (pages.most <= WholePages<kClusterSize>(args)) return true;
  int whole_rounds = WholeRounds(args.units_a_cluster, pages.most, kClusterSize);
  if (args.units_a_cluster > 1 && pages.most != pages.least) {
    if (kClusterSize > 1 || args.slice_groups == 0) return false;  // not worked out
    whole_rounds = FullestSlice(args);
  }
  return WholeUnitsWin(args.cut_rule, pages.sum * UnitsASequence(args),
                       args.num_clusters * kClusterSize, whole_rounds);
}

// Pages before each of at most 32 sequences, by every warp for itself.
template <int kClusterSize>
__device__ const int* SumWarp(const DecodeArgs& args, int pages,
                              PlanStorage<kClusterSize>& storage) {
  const int lane = threadIdx.x % 32;
  int* const pages_before = storage.pages_before + threadIdx.x / 32 * 33;
  int scan = pages;
  for (int delta = 1; delta < args.batch; delta *= 2) {
    const int other = __shfl_up_sync(~0u, scan, delta);
    if (lane >= delta) scan += other;
  }
  if (lane < args.batch) pages_before[lane + 1] = scan;
  if (lane == 0) pages_before[0] = 0;
  __syncwarp();
  return pages_before;
}

// Pages before each sequence of any batch. All threads of the CTA call it, at least kPlanThreads.
template <int kClusterSize>
__device__ void SumBlock(const DecodeArgs& args, PlanStorage<kClusterSize>& storage) {
  constexpr int kPerThread =
      (PlanStorage<kClusterSize>::kMaxBatch + kPlanThreads - 1) / kPlanThreads;
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int per_thread = (args.batch + kPlanThreads - 1) / kPlanThreads;
  if (thread < kPlanThreads) {
    int pages[kPerThread];
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int sequence = thread * per_thread + i;
      pages[i] = 0;
      if (i < per_thread && sequence < args.batch) {
        pages[i] = ChargedPages(args, SpanOfSequence(args, sequence));
      }
      sum += pages[i];
    }
    int scan = sum;
#pragma unroll
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = __shfl_up_sync(~0u, scan, delta);
      if (lane >= delta) scan += other;
    }
    if (lane == 31) storage.warp_sums[thread / 32] = scan;
    NamedBarrier<2, kPlanThreads>();
    int before = scan - sum;
    for (int warp = 0; warp < thread / 32; ++warp) before += storage.warp_sums[warp];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int sequence = thread * per_thread + i;
      before += pages[i];
      if (i < per_thread && sequence < args.batch) storage.pages_before[sequence + 1] = before;
    }
    if (thread == 0) storage.pages_before[0] = 0;
  }
  __syncthreads();
  // racecheck now and then reports a read behind the one barrier against a write ahead of it.
  if constexpr (kForSanitizer) __syncthreads();
}

// Leaves the plan in `storage`, for registers' sake, one a warp. Of a batch that has pages. All
// threads of the CTA call it.
template <int kClusterSize>
__device__ void MakePlan(const DecodeArgs& args, const BatchPages& pages,
                         PlanStorage<kClusterSize>& storage) {
  DecodePlan plan;
  const int total_pages = pages.sum * UnitsASequence(args);
  plan.num_slices = min(args.num_clusters, total_pages);
  plan.slice_pages = total_pages / plan.num_slices;
  plan.longer_slices = total_pages - plan.slice_pages * plan.num_slices;
  if (args.batch <= 32) {
    plan.pages_before = SumWarp(args, pages.of_lane, storage);
  } else {
    SumBlock(args, storage);
    plan.pages_before = storage.pages_before;
  }
  if (threadIdx.x % 32 == 0) storage.plans[threadIdx.x / 32] = plan;
  __syncwarp();
}

// The part of one unit that a cluster reads.
struct Segment {
  SequenceSpan span;
  int sequence;
  int kv_head;
  int row_block;
  int begin_page;  // of the pages the rows see, [begin_page, end_page)
  int end_page;
  int first_slice;  // slices that hold a part of the unit: [first_slice, last_slice]
  int last_slice;

  __device__ bool IsCut() const { return first_slice != last_slice; }
};

// The whole unit number `unit` of a sequence.
__device__ inline void SetUnit(const DecodeArgs& args, int sequence, int unit, int slice,
                               Segment& segment) {
  segment.sequence = sequence;
  segment.span = SpanOfSequence(args, sequence);
  segment.kv_head = args.row_blocks.Divide(unit);
  segment.row_block = unit - segment.kv_head * args.row_blocks.value;
  segment.begin_page = 0;
  segment.end_page = segment.span.num_pages;
  segment.first_slice = segment.last_slice = slice;
}

// The one segment of a slice that takes the unit of its number alone, sooner than a walker finds
// it. False if it has none.
__device__ inline bool TakeOnlyUnit(const DecodeArgs& args, int slice, Segment& segment) {
  const int sequence = args.units_a_sequence.Divide(slice);
  if (sequence >= args.batch) return false;
  SetUnit(args, sequence, slice - sequence * UnitsASequence(args), slice, segment);
  return segment.end_page > 0;
}

// Walks one slice's segments in order. What returns a bool says whether there is one.
class SegmentWalker {
 public:
  // Of a slice without segments, until it is begun. `plan`: read from FirstPart() on.
  __device__ SegmentWalker(const DecodeArgs& args, const DecodePlan& plan, int slice)
      : args_(args), plan_(plan), slice_(slice) {}

  // Begins a slice of whole units. Needs no plan, which would take a third of a microsecond.
  __device__ bool FirstUnit(Segment& segment) {
    turn_ = SnakeTurn::Of(slice_, args_.num_clusters);
    return NextUnit(segment);
  }

  // Begins a slice of units that are cut.
  __device__ bool FirstPart(Segment& segment) {
    if (slice_ >= plan_.num_slices) return false;
    const int begin = plan_.SliceBegin(slice_);
    pages_left_ = plan_.SliceBegin(slice_ + 1) - begin;
    int high = args_.batch - 1;
    while (sequence_ < high) {  // the last sequence that begins at or before `begin`
      const int middle = (sequence_ + high + 1) / 2;
      if (plan_.pages_before[middle] * UnitsASequence(args_) <= begin) {
        sequence_ = middle;
      } else {
        high = middle - 1;
      }
    }
    const int offset = begin - plan_.pages_before[sequence_] * UnitsASequence(args_);
    unit_ = offset / UnitPages();
    page_ = offset - unit_ * UnitPages();
    return NextPart(segment);
  }

  __device__ bool Next(Segment& segment) {
    return turn_.next == kNoTurn ? NextPart(segment) : NextUnit(segment);
  }

 private:
  __device__ bool NextUnit(Segment& segment) {
    const int units = args_.batch * UnitsASequence(args_);
    while (turn_.next < units) {
      const int sequence = args_.units_a_sequence.Divide(turn_.next);
      SetUnit(args_, sequence, turn_.next - sequence * UnitsASequence(args_), slice_, segment);
      turn_.Advance(args_.num_clusters);
      if (segment.end_page > 0) return true;
    }
    return false;
  }

  __device__ bool NextPart(Segment& segment) {
    while (pages_left_ > 0) {
      if (UnitPages() == 0) {
        ++sequence_;
        continue;
      }
      TakePart(segment);
      if (segment.begin_page < segment.end_page) return true;
    }
    return false;
  }

  __device__ int UnitPages() const {
    return plan_.pages_before[sequence_ + 1] - plan_.pages_before[sequence_];
  }

  // The next segment of a slice that cuts units; it may hold no page, only some of its unit's
  // start.
  __device__ void TakePart(Segment& segment) {
    const int unit_pages = UnitPages();
    const int end = min(unit_pages, page_ + pages_left_);
    SetUnit(args_, sequence_, unit_, slice_, segment);
    segment.begin_page = max(0, page_ - args_.unit_cost);
    segment.end_page = max(0, end - args_.unit_cost);
    const int unit_begin =
        plan_.pages_before[sequence_] * UnitsASequence(args_) + unit_ * unit_pages;
    if (segment.begin_page > 0) {
      segment.first_slice = plan_.SliceOfPage(unit_begin + args_.unit_cost);
    }
    if (end < unit_pages) segment.last_slice = plan_.SliceOfPage(unit_begin + unit_pages - 1);
    pages_left_ -= end - page_;
    page_ = end;
    if (end < unit_pages) return;
    page_ = 0;
    if (++unit_ == UnitsASequence(args_)) {
      ++sequence_;
      unit_ = 0;
    }
  }

  static constexpr int kNoTurn = INT32_MAX;

  const DecodeArgs& args_;
  const DecodePlan& plan_;
  const int slice_;
  SnakeTurn turn_ = {kNoTurn, 0};  // units of the batch, where they are whole
  // Where units are cut:
  int sequence_ = 0;
  int unit_ = 0;        // of the sequence
  int page_ = 0;        // of the unit
  int pages_left_ = 0;  // of the slice
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
