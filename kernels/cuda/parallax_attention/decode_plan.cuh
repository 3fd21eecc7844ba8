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
// are hardly longer, a cluster takes whole units.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_ptx.cuh"
#include "kernels/cuda/parallax_decode.h"
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

// All in charged pages.
struct DecodePlan {
  const int* pages_before;  // [batch + 1], shared memory: before each sequence, of one unit each
  int num_slices;           // clusters that have work
  int units_a_slice;        // whole units a slice, or 0: slices cut units
  int slice_pages;          // of a slice that cuts units; the first `longer_slices` have one more
  int longer_slices;

  // The slice that page `x` of the row of pages falls in (slices cut units).
  __device__ int SliceOfPage(int x) const {
    const int longer_end = longer_slices * (slice_pages + 1);
    return x < longer_end ? x / (slice_pages + 1) : longer_slices + (x - longer_end) / slice_pages;
  }
  __device__ int SliceBegin(int slice) const {
    return slice * slice_pages + min(slice, longer_slices);
  }
};

// Shared memory of the plan.
struct PlanStorage {
  int pages_before[kMaxDecodeBatch + 1];
  int of_warp[kMaxPlanWarps][33];  // of a short batch, each warp's own
  int warp_sums[kPlanWarps];
  int warp_max[kPlanWarps];
  int warp_min[kPlanWarps];
};

template <int kClusterSize>
__device__ DecodePlan PlanOfTotals(const DecodeArgs& args, const int* pages_before, int most,
                                   int least) {
  DecodePlan plan;
  const int total_pages = pages_before[args.batch] * UnitsASequence(args);
  plan.pages_before = pages_before;
  plan.num_slices = min(args.num_clusters, total_pages);
  plan.units_a_slice = 0;
  plan.slice_pages = plan.longer_slices = 0;
  if (total_pages == 0) return plan;
  // Rounds, of one page a CTA, that whole units take; and the fewest that slices must take for a
  // cut to be worth its merge. The CTAs of a cluster read half as fast again when fewer share the
  // memory.
  const int whole_rounds = args.units_a_cluster * ((most + kClusterSize - 1) / kClusterSize);
  const int worth = whole_rounds - args.cut_cost;
  const int cut_rounds = kClusterSize == 1 ? worth : (2 * worth + 2) / 3;
  if ((args.units_a_cluster == 1 || most == least) &&
      total_pages > plan.num_slices * (cut_rounds - 1) * kClusterSize) {
    plan.units_a_slice = args.units_a_cluster;
    plan.num_slices = args.whole_slices;
    return plan;
  }
  plan.slice_pages = total_pages / plan.num_slices;
  plan.longer_slices = total_pages - plan.slice_pages * plan.num_slices;
  return plan;
}

// The plan of at most 32 sequences, by every warp for itself.
template <int kClusterSize>
__device__ DecodePlan MakeWarpPlan(const DecodeArgs& args, PlanStorage& storage) {
  const int lane = threadIdx.x % 32;
  int* const pages_before = storage.of_warp[threadIdx.x / 32];
  int pages = 0;
  if (lane < args.batch) pages = ChargedPages(args, SpanOfSequence(args, lane));
  int scan = pages;
  for (int delta = 1; delta < args.batch; delta *= 2) {
    const int other = __shfl_up_sync(~0u, scan, delta);
    if (lane >= delta) scan += other;
  }
  const int most = __reduce_max_sync(~0u, pages);
  const int least = __reduce_min_sync(~0u, lane < args.batch ? pages : INT32_MAX);
  if (lane < args.batch) pages_before[lane + 1] = scan;
  if (lane == 0) pages_before[0] = 0;
  __syncwarp();
  return PlanOfTotals<kClusterSize>(args, pages_before, most, least);
}

// The plan of any batch. All threads of the CTA call it, at least kPlanThreads.
template <int kClusterSize>
__device__ DecodePlan MakePlan(const DecodeArgs& args, PlanStorage& storage) {
  if (args.batch <= 32) return MakeWarpPlan<kClusterSize>(args, storage);
  constexpr int kPerThread = kMaxDecodeBatch / kPlanThreads;
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int per_thread = (args.batch + kPlanThreads - 1) / kPlanThreads;
  if (thread < kPlanThreads) {
    int pages[kPerThread];
    int sum = 0;
    int most = 0;
    int least = INT32_MAX;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int sequence = thread * per_thread + i;
      pages[i] = 0;
      if (i < per_thread && sequence < args.batch) {
        pages[i] = ChargedPages(args, SpanOfSequence(args, sequence));
        most = max(most, pages[i]);
        least = min(least, pages[i]);
      }
      sum += pages[i];
    }
    int scan = sum;
#pragma unroll
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = __shfl_up_sync(~0u, scan, delta);
      if (lane >= delta) scan += other;
    }
    most = __reduce_max_sync(~0u, most);
    least = __reduce_min_sync(~0u, least);
    if (lane == 31) {
      storage.warp_sums[thread / 32] = scan;
      storage.warp_max[thread / 32] = most;
      storage.warp_min[thread / 32] = least;
    }
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
  int most = 0;
  int least = INT32_MAX;
#pragma unroll
  for (int warp = 0; warp < kPlanWarps; ++warp) {
    most = max(most, storage.warp_max[warp]);
    least = min(least, storage.warp_min[warp]);
  }
  return PlanOfTotals<kClusterSize>(args, storage.pages_before, most, least);
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

// Walks one slice's segments in order.
class SegmentWalker {
 public:
  __device__ SegmentWalker(const DecodeArgs& args, const DecodePlan& plan, int slice)
      : args_(args), plan_(plan), slice_(slice) {
    if (slice >= plan.num_slices) return;
    if (plan.units_a_slice > 0) {
      const int first = slice * plan.units_a_slice;
      units_left_ = min(plan.units_a_slice, args.batch * UnitsASequence(args) - first);
      pages_left_ = INT32_MAX;
      sequence_ = args.units_a_sequence.Divide(first);
      unit_ = first - sequence_ * UnitsASequence(args);
      return;
    }
    const int begin = plan.SliceBegin(slice);
    units_left_ = INT32_MAX;
    pages_left_ = plan.SliceBegin(slice + 1) - begin;
    int high = args.batch - 1;
    while (sequence_ < high) {  // the last sequence that begins at or before `begin`
      const int middle = (sequence_ + high + 1) / 2;
      if (plan.pages_before[middle] * UnitsASequence(args) <= begin) {
        sequence_ = middle;
      } else {
        high = middle - 1;
      }
    }
    const int offset = begin - plan.pages_before[sequence_] * UnitsASequence(args);
    unit_ = offset / UnitPages();
    page_ = offset - unit_ * UnitPages();
  }

  // False at the end of the slice.
  __device__ bool Next(Segment& segment) {
    while (units_left_ > 0 && pages_left_ > 0) {
      if (UnitPages() == 0) {
        units_left_ -= UnitsASequence(args_) - unit_;
        NextSequence();
        continue;
      }
      Take(segment);
      if (segment.begin_page < segment.end_page) return true;
    }
    return false;
  }

 private:
  __device__ int UnitPages() const {
    return plan_.pages_before[sequence_ + 1] - plan_.pages_before[sequence_];
  }
  __device__ void NextSequence() {
    ++sequence_;
    unit_ = 0;
  }

  // The next segment; it may hold no page, only some of its unit's start.
  __device__ void Take(Segment& segment) {
    const int unit_pages = UnitPages();
    const int end = min(unit_pages, page_ + pages_left_);
    segment.sequence = sequence_;
    segment.span = SpanOfSequence(args_, sequence_);
    segment.kv_head = args_.row_blocks.Divide(unit_);
    segment.row_block = unit_ - segment.kv_head * args_.row_blocks.value;
    segment.begin_page = max(0, page_ - args_.unit_cost);
    segment.end_page = max(0, end - args_.unit_cost);
    segment.first_slice = segment.last_slice = slice_;
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
    --units_left_;
    if (++unit_ == UnitsASequence(args_)) NextSequence();
  }

  const DecodeArgs& args_;
  const DecodePlan& plan_;
  const int slice_;
  int units_left_ = 0;  // of whole units
  int pages_left_ = 0;  // of a slice that cuts units
  int sequence_ = 0;
  int unit_ = 0;  // of the sequence
  int page_ = 0;  // of the unit
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
