// Who reads what: the division of a decode batch's pages over clusters and their CTAs.
//
// A unit is one block of query rows of one (sequence, KV head); its work is the pages those
// rows see. Units in order of (sequence, KV head, row block) make one long row of pages, which
// is cut into equal slices, one a cluster; the part of a unit inside a slice is a segment. Every
// CTA works this out for itself from the lengths in device memory.
//
// Cutting a unit costs a merge through global memory. So where whole units give slices that
// are hardly longer, a cluster takes whole units.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
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

struct DecodePlan {
  int total_pages;    // of all units
  int num_slices;     // clusters that have work
  int units_a_slice;  // whole units a slice, or 0: slices cut units

  // The slice that page `x` of the row of pages falls in (slices cut units).
  __device__ int SliceOfPage(int x) const {
    return static_cast<int>((int64_t{x + 1} * num_slices - 1) / total_pages);
  }
  __device__ int SliceBegin(int slice) const {
    return static_cast<int>(int64_t{slice} * total_pages / num_slices);
  }
};

// Shared memory of the plan: pages before each sequence, counted for one unit a sequence.
struct PlanStorage {
  int pages_before[kMaxDecodeBatch + 1];
  int warp_sums[8];
  int warp_max[8];
  int warp_min[8];
};

// Fills storage.pages_before and returns the plan. All threads of the CTA call it, at least 256.
template <int kClusterSize>
__device__ DecodePlan MakePlan(const DecodeArgs& args, PlanStorage& storage) {
  constexpr int kPerThread = kMaxDecodeBatch / 256;
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int per_thread = (args.batch + 255) / 256;
  if (thread < 256) {
    int pages[kPerThread];
    int sum = 0;
    int most = 0;
    int least = INT32_MAX;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int sequence = thread * per_thread + i;
      pages[i] = 0;
      if (i < per_thread && sequence < args.batch) {
        pages[i] = SpanOfSequence(args, sequence).num_pages;
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
    asm volatile("bar.sync 2, 256;" ::: "memory");
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
  for (int warp = 0; warp < 8; ++warp) {
    most = max(most, storage.warp_max[warp]);
    least = min(least, storage.warp_min[warp]);
  }
  const int units_a_sequence = args.num_kv_heads * args.row_blocks;
  const int units = args.batch * units_a_sequence;
  DecodePlan plan;
  plan.total_pages = storage.pages_before[args.batch] * units_a_sequence;
  plan.num_slices = min(args.num_clusters, plan.total_pages);
  plan.units_a_slice = 0;
  if (plan.total_pages == 0) return plan;

  const auto rounds = [](int pages) { return (pages + kClusterSize - 1) / kClusterSize; };
  const int cut = rounds((plan.total_pages + plan.num_slices - 1) / plan.num_slices);
  const int units_a_slice = (units + args.num_clusters - 1) / args.num_clusters;
  if ((units_a_slice == 1 || most == least) &&
      units_a_slice * rounds(most) <= cut + args.cut_cost) {
    plan.units_a_slice = units_a_slice;
    plan.num_slices = (units + units_a_slice - 1) / units_a_slice;
  }
  return plan;
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
};

// Walks one slice's segments in order.
class SegmentWalker {
 public:
  __device__ SegmentWalker(const DecodeArgs& args, const DecodePlan& plan,
                           const PlanStorage& storage, int slice)
      : args_(args), plan_(plan), storage_(storage), slice_(slice) {
    const int units_a_sequence = args.num_kv_heads * args.row_blocks;
    if (slice >= plan.num_slices) {
      next_ = end_ = 0;
      return;
    }
    if (plan.units_a_slice > 0) {
      next_ = PageOfUnit(slice * plan.units_a_slice);
      end_ = PageOfUnit(min((slice + 1) * plan.units_a_slice, args.batch * units_a_sequence));
    } else {
      next_ = plan.SliceBegin(slice);
      end_ = plan.SliceBegin(slice + 1);
    }
    int low = 0;
    int high = args.batch - 1;
    while (low < high) {  // the last sequence that begins at or before next_
      const int middle = (low + high + 1) / 2;
      if (storage.pages_before[middle] * units_a_sequence <= next_) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    sequence_ = low;
  }

  // False at the end of the slice.
  __device__ bool Next(Segment& segment) {
    if (next_ >= end_) return false;
    const int units_a_sequence = args_.num_kv_heads * args_.row_blocks;
    while (storage_.pages_before[sequence_ + 1] * units_a_sequence <= next_) ++sequence_;
    segment.sequence = sequence_;
    segment.span = SpanOfSequence(args_, sequence_);
    const int pages = segment.span.num_pages;
    const int sequence_begin = storage_.pages_before[sequence_] * units_a_sequence;
    const int unit = (next_ - sequence_begin) / pages;
    const int unit_begin = sequence_begin + unit * pages;
    segment.kv_head = unit / args_.row_blocks;
    segment.row_block = unit % args_.row_blocks;
    segment.begin_page = next_ - unit_begin;
    segment.end_page = min(pages, end_ - unit_begin);
    segment.first_slice = segment.last_slice = slice_;
    if (segment.begin_page > 0) segment.first_slice = plan_.SliceOfPage(unit_begin);
    if (segment.end_page < pages) segment.last_slice = plan_.SliceOfPage(unit_begin + pages - 1);
    next_ = unit_begin + segment.end_page;
    return true;
  }

 private:
  // Where a unit begins in the row of pages.
  __device__ int PageOfUnit(int unit) const {
    const int units_a_sequence = args_.num_kv_heads * args_.row_blocks;
    const int sequence = unit / units_a_sequence;
    const int before = storage_.pages_before[sequence];
    const int rest = unit % units_a_sequence;
    const int pages = rest == 0 ? 0 : storage_.pages_before[sequence + 1] - before;
    return before * units_a_sequence + rest * pages;
  }

  const DecodeArgs& args_;
  const DecodePlan plan_;
  const PlanStorage& storage_;
  const int slice_;
  int next_;
  int end_;
  int sequence_ = 0;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PLAN_CUH_
