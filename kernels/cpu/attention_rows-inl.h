// Folds keys into the probe states of a few query rows: the inside of CPU attention.
//
// Rows are consecutive positions of one sequence times the query heads of one KV head's group,
// times two parts where the probe is on: row ((position * group) + head) * parts + part, with
// part 0 = q and part 1 = r. So one product with the keys gives s1 and s2 of a (row, key)
// next to each other, one product with the values gives o1 and o2, and all rows share each
// key's and value's load and widening.
//
// Keys fold in page by page at absolute positions. Per row and page, in this order: scores;
// new maximum and centre; rescaling; p and p*s2 over 64 lanes; then o += p*v key by key.
// Nothing in that depends on the other rows, which is what makes results batch-invariant.
#if defined(PARALLAX_KERNELS_CPU_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARALLAX_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#undef PARALLAX_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#else
#define PARALLAX_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/panel_product-inl.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/parallax_attention.h"
#include "kernels/probe_state.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

inline constexpr int kMaxStates = kMaxGroupSize;        // (position, head) pairs in flight
inline constexpr int kMaxStackedRows = 2 * kMaxStates;  // with both parts
inline constexpr int kPanelsPerPage = kPageSize / kPanelWidth;

// States of all rows, in memory that someone else owns.
struct ProbeStates {
  ProbeScalars* scalars = nullptr;  // [positions * group]
  float* o = nullptr;               // [positions * group * parts][head_dim]
};

// Keys [begin, end) of a position, of a page or of a batch of rows.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;

  bool empty() const { return begin >= end; }
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

struct AttentionScratch {
  float queries[kMaxStackedRows * kMaxHeadDim];  // scaled, [rows][head_dim]
  float scores[kMaxStackedRows * kPageSize];     // s1 and s2, then p and p*s2
  float widened_k[kPageSize * kMaxHeadDim];
  float widened_v[kPageSize * kMaxHeadDim];
  ProbeScalars split_scalars[kMaxStates];
  ProbeScalars total_scalars[kMaxStates];
  float split_o[kMaxStackedRows * kMaxHeadDim];
  float total_o[kMaxStackedRows * kMaxHeadDim];
};
static_assert(sizeof(AttentionScratch) <= ThreadPool::kScratchBytes);

// Positions of one sequence, for one KV head.
struct AttentionRows {
  const ParallaxAttentionParams* params = nullptr;
  const int32_t* block_table = nullptr;  // of the sequence
  int64_t first_token = 0;               // row of q for the first position
  int64_t first_position = 0;
  int positions = 0;
  int kv_head = 0;
  int group = 1;
  int parts = 1;  // 2 with the probe

  int head_dim() const { return params->cache.head_dim; }
  int rows_per_position() const { return group * parts; }

  // The keys that the position may see.
  KeyRange VisibleKeys(int position) const {
    const int64_t absolute = first_position + position;
    const int64_t window = params->sliding_window;
    return {window > 0 ? std::max<int64_t>(0, absolute - window + 1) : 0, absolute + 1};
  }

  ProbeStateRef State(const ProbeStates& states, int position, int head) const {
    const int state = position * group + head;
    float* const o1 = states.o + int64_t{state} * parts * head_dim();
    return {states.scalars + state, o1, parts == 2 ? o1 + head_dim() : nullptr, head_dim()};
  }
};

inline KeyRange Intersect(const KeyRange& a, const KeyRange& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Copies q, with the softmax scale, and r into the stacked rows.
inline void GatherQueries(const AttentionRows& rows, AttentionScratch& scratch) {
  const ParallaxAttentionParams& params = *rows.params;
  float* to = scratch.queries;
  for (int position = 0; position < rows.positions; ++position) {
    for (int head = 0; head < rows.group; ++head) {
      for (int part = 0; part < rows.parts; ++part) {
        const ConstTensorView& tensor = part == 0 ? params.q : params.r;
        const float scale = params.cache.k_scale * (part == 0 ? params.softmax_scale : 1.0f);
        const float* from = tensor.as<float>() + (rows.first_token + position) * tensor.strides[0] +
                            (rows.kv_head * rows.group + head) * tensor.strides[1];
        for (int d = 0; d < rows.head_dim(); ++d) to[d] = from[d] * scale;
        to += rows.head_dim();
      }
    }
  }
}

// The lanes of a group of 16 keys that the row sees.
HWY_INLINE hn::Mask<FloatTag> VisibleLanes(const KeyRange& keys, int64_t first_key) {
  const FloatTag tag;
  const FloatVector lane = hn::Iota(tag, static_cast<float>(first_key));
  return hn::And(hn::Ge(lane, hn::Set(tag, static_cast<float>(keys.begin))),
                 hn::Lt(lane, hn::Set(tag, static_cast<float>(keys.end))));
}

HWY_INLINE float MaxScore(const float* scores, const KeyRange& keys) {
  const FloatTag tag;
  const float lowest = -std::numeric_limits<float>::infinity();
  Group max = BroadcastGroup(lowest);
  for (int64_t key = keys.begin / kPanelWidth * kPanelWidth; key < keys.end; key += kPanelWidth) {
    for (int i = 0; i < kVectors; ++i) {
      const int64_t first = key + i * kLanes;
      const FloatVector score = hn::IfThenElse(
          VisibleLanes(keys, first), hn::LoadU(tag, scores + first), hn::Set(tag, lowest));
      max.v[i] = hn::Max(max.v[i], score);
    }
  }
  return MaxGroup(max);
}

// Lets the state's maximum and centre follow the page's top key, and brings what it has summed
// so far to the new ones.
inline void RaiseMax(const ProbeStateRef& state, float page_max, const float* s1, const float* s2,
                     const KeyRange& keys) {
  const FloatTag tag;
  ProbeScalars& scalars = *state.scalars;
  const float* const top = std::find(s1 + keys.begin, s1 + keys.end, page_max);
  // Without a top key (NaN scores) any centre will do: the row's result is NaN.
  const int64_t top_key = top == s1 + keys.end ? keys.begin : top - s1;
  const float centre = s2 == nullptr ? 0.0f : s2[top_key];
  if (!scalars.empty()) {
    const float shift = scalars.centre - centre;
    const FloatVector weight = ExpKeepingNaN(hn::Set(tag, scalars.max - page_max));
    const FloatVector shift_vector = hn::Set(tag, shift);
    for (int d = 0; d < state.head_dim; d += kLanes) {
      const FloatVector o1 = hn::LoadU(tag, state.o1 + d);
      hn::StoreU(hn::Mul(weight, o1), tag, state.o1 + d);
      if (state.o2 == nullptr) continue;
      const FloatVector o2 = hn::MulAdd(shift_vector, o1, hn::LoadU(tag, state.o2 + d));
      hn::StoreU(hn::Mul(weight, o2), tag, state.o2 + d);
    }
    scalars.d2 = hn::GetLane(weight) * (scalars.d2 + shift * scalars.d1);
    scalars.d1 = hn::GetLane(weight) * scalars.d1;
  }
  scalars.max = page_max;
  scalars.centre = centre;
}

// Turns one row's s1 and s2 into p and p*s2 and adds them up; lanes that the row does not see
// become zero. s2 is null without the probe.
HWY_INLINE void WeighKeys(ProbeScalars& scalars, float* s1, float* s2, const KeyRange& keys) {
  const FloatTag tag;
  const FloatVector max = hn::Set(tag, scalars.max);
  const FloatVector centre = hn::Set(tag, scalars.centre);
  Group d1 = BroadcastGroup(0.0f);
  Group d2 = BroadcastGroup(0.0f);
  for (int64_t key = keys.begin / kPanelWidth * kPanelWidth; key < keys.end; key += kPanelWidth) {
    for (int i = 0; i < kVectors; ++i) {
      const int64_t first = key + i * kLanes;
      const auto visible = VisibleLanes(keys, first);
      const FloatVector score = hn::Sub(hn::LoadU(tag, s1 + first), max);
      const FloatVector p = hn::IfThenElseZero(visible, ExpKeepingNaN(score));
      hn::StoreU(p, tag, s1 + first);
      d1.v[i] = hn::Add(d1.v[i], p);
      if (s2 == nullptr) continue;
      const FloatVector probe = hn::Sub(hn::LoadU(tag, s2 + first), centre);
      const FloatVector weighted = hn::IfThenElseZero(visible, hn::Mul(p, probe));
      hn::StoreU(weighted, tag, s2 + first);
      d2.v[i] = hn::Add(d2.v[i], weighted);
    }
  }
  scalars.d1 += SumGroup(d1);
  if (s2 != nullptr) scalars.d2 += SumGroup(d2);
}

// Folds one page into the states of positions [first, last), each of which sees some of it.
template <typename T>
class PageFold {
 public:
  PageFold(const AttentionRows& rows, int64_t page, KeyRange keys, AttentionScratch& scratch)
      : rows_(rows), first_key_(page * kPageSize), keys_(keys), scratch_(scratch) {
    const KvCacheView& cache = rows.params->cache;
    const T* const data = static_cast<const T*>(cache.data);
    const int64_t k_offset = cache.k_block_offset(rows.block_table[page], rows.kv_head);
    const int64_t v_offset = cache.v_block_offset(rows.block_table[page], rows.kv_head);
    k_block_ = data + k_offset;
    v_block_ = data + v_offset;
    // After a page's keys come its values, and after those the next page's keys.
    from_k_to_v_ = v_offset - k_offset;
    const bool last_page = keys.end >= rows.VisibleKeys(rows.positions - 1).end;
    const int32_t next = rows.block_table[last_page ? page : page + 1];
    from_v_to_next_k_ = cache.k_block_offset(next, rows.kv_head) - v_offset;
  }

  void Run(int first, int last, const ProbeStates& states) {
    const int stacked = (last - first) * rows_.rows_per_position();
    // Many rows share one widening; few widen in registers.
    const bool widen = sizeof(T) < sizeof(float) && stacked > kTileRows;
    const KeyRange seen = PageKeys(first, last);
    const int64_t first_panel = seen.begin / kPanelWidth;
    const int64_t last_panel = (seen.end + kPanelWidth - 1) / kPanelWidth;
    const int64_t panel_size = int64_t{rows_.head_dim()} * kPanelWidth;
    const T* const k_panels = k_block_ + first_panel * panel_size;
    const int panels = static_cast<int>(last_panel - first_panel);
    if (widen) {
      Widen(k_panels, panels * panel_size, scratch_.widened_k);
      Score<float>(first, stacked, first_panel, {scratch_.widened_k, panel_size, panels});
      Weigh(first, last, states);
      WidenValues(seen);
      AddValues<float>(first, last, scratch_.widened_v, states);
    } else {
      Score<T>(first, stacked, first_panel, {k_panels, panel_size, panels, from_k_to_v_});
      Weigh(first, last, states);
      AddValues<T>(first, last, v_block_, states);
    }
  }

 private:
  static constexpr int64_t kValuePanel = int64_t{kPageSize} * kPanelWidth;

  // The keys of this page that `position` sees, counted from the page's start.
  KeyRange PageKeys(int position) const {
    const KeyRange keys = Intersect(rows_.VisibleKeys(position), keys_);
    return {keys.begin - first_key_, keys.end - first_key_};
  }
  // All that positions [first, last) see.
  KeyRange PageKeys(int first, int last) const {
    return {PageKeys(first).begin, PageKeys(last - 1).end};
  }

  float* Scores(int position) const {
    return scratch_.scores + int64_t{position} * rows_.rows_per_position() * kPageSize;
  }

  template <typename Key>
  void Score(int first, int stacked, int64_t first_panel, const PanelOperand<Key>& panels) {
    const int64_t head_dim = rows_.head_dim();
    const float* queries = scratch_.queries + first * rows_.rows_per_position() * head_dim;
    PanelProduct<Key>(stacked, {queries, head_dim}, head_dim, panels,
                      {Scores(first) + first_panel * kPanelWidth, kPageSize, /*accumulate=*/false});
  }

  void Weigh(int first, int last, const ProbeStates& states) {
    for (int position = first; position < last; ++position) {
      const KeyRange keys = PageKeys(position);
      for (int head = 0; head < rows_.group; ++head) {
        const ProbeStateRef state = rows_.State(states, position, head);
        float* const s1 = Scores(position) + head * rows_.parts * kPageSize;
        float* const s2 = rows_.parts == 2 ? s1 + kPageSize : nullptr;
        const float page_max = MaxScore(s1, keys);
        // Not "greater": a NaN must come through too.
        if (!(page_max <= state.scalars->max)) RaiseMax(state, page_max, s1, s2, keys);
        WeighKeys(*state.scalars, s1, s2, keys);
      }
    }
  }

  void WidenValues(const KeyRange& seen) {
    const int64_t offset = seen.begin * kPanelWidth;
    const int64_t size = (seen.end - seen.begin) * kPanelWidth;
    for (int64_t panel = 0; panel < rows_.head_dim() / kPanelWidth; ++panel) {
      Widen(v_block_ + panel * kValuePanel + offset, size,
            scratch_.widened_v + panel * kValuePanel + offset);
    }
  }

  // o += p v, positions with the same keys together. A row takes exactly its own keys: the
  // values of others may be anything.
  template <typename Value>
  void AddValues(int first, int last, const Value* values, const ProbeStates& states) {
    const int64_t head_dim = rows_.head_dim();
    const int per_position = rows_.rows_per_position();
    for (int begin = first; begin < last;) {
      const KeyRange keys = PageKeys(begin);
      int end = begin + 1;
      while (end < last && PageKeys(end) == keys) ++end;
      PanelProduct<Value>((end - begin) * per_position, {Scores(begin) + keys.begin, kPageSize},
                          keys.end - keys.begin,
                          {values + keys.begin * kPanelWidth, kValuePanel,
                           static_cast<int>(head_dim / kPanelWidth), from_v_to_next_k_},
                          {states.o + begin * per_position * head_dim, head_dim,
                           /*accumulate=*/true});
      begin = end;
    }
  }

  const AttentionRows& rows_;
  const int64_t first_key_;
  const KeyRange keys_;
  AttentionScratch& scratch_;
  const T* k_block_;
  const T* v_block_;
  int64_t from_k_to_v_;
  int64_t from_v_to_next_k_;
};

// The positions that see any of `keys`: a contiguous range, since what is seen moves up with
// the position.
inline KeyRange PositionsThatSee(const AttentionRows& rows, const KeyRange& keys) {
  int first = 0;
  while (first < rows.positions && Intersect(rows.VisibleKeys(first), keys).empty()) ++first;
  int last = first;
  while (last < rows.positions && !Intersect(rows.VisibleKeys(last), keys).empty()) ++last;
  return {first, last};
}

// Clears the states of the positions that see keys of split `split` and folds those keys in.
// Returns the positions. GatherQueries has been called.
template <typename T>
KeyRange FoldSplit(const AttentionRows& rows, int64_t split, AttentionScratch& scratch,
                   const ProbeStates& states) {
  const KeyRange split_keys{split * kKeysPerSplit, (split + 1) * kKeysPerSplit};
  const KeyRange positions = PositionsThatSee(rows, split_keys);
  if (positions.empty()) return positions;
  for (int position = positions.begin; position < positions.end; ++position) {
    for (int head = 0; head < rows.group; ++head) {
      ClearProbeState(rows.State(states, position, head));
    }
  }
  const KeyRange seen = Intersect(split_keys, {rows.VisibleKeys(positions.begin).begin,
                                               rows.VisibleKeys(positions.end - 1).end});
  for (int64_t page = seen.begin / kPageSize; page * kPageSize < seen.end; ++page) {
    const KeyRange keys{page * kPageSize, (page + 1) * kPageSize};
    const KeyRange active = PositionsThatSee(rows, keys);
    if (active.empty()) continue;
    PageFold<T>(rows, page, keys, scratch)
        .Run(static_cast<int>(active.begin), static_cast<int>(active.end), states);
  }
  return positions;
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PARALLAX_KERNELS_CPU_ATTENTION_ROWS_INL_H_
