// Whether a decode batch's units are read whole or cut into equal slices (decode_plan.cuh).
//
// Thread safety: stateless. Host and device code.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_

#include <cstdint>

namespace parallax::kernels::cuda {

// A round is the time in which every CTA that reads at all reads a page.
struct CutRule {
  // What a round takes where units are cut, in the unit of whole_round.
  static constexpr int kCutRound = 256;

  // Rounds that are rather read than a unit cut: a merge through global memory, with what the CTAs
  // that have parts of two units lose besides.
  int cut_cost = 0;
  // What a round takes where units are whole, so that fewer CTAs share the memory. At most
  // kCutRound: then units of at most cut_cost + 1 rounds are whole whatever the batch.
  int whole_round = kCutRound;
};

// Rounds that whole units take, of which the longest has `most_pages`, where a cluster has at most
// so many of them.
constexpr int WholeRounds(int units_a_cluster, int most_pages, int cluster_size) {
  return units_a_cluster * ((most_pages + cluster_size - 1) / cluster_size);
}

// Whether whole units, of which the fullest slice takes `whole_rounds`, are read no later than
// `pages` in equal slices over `ctas`, merges included.
constexpr bool WholeUnitsWin(const CutRule& rule, int pages, int ctas, int whole_rounds) {
  const int64_t worth = int64_t{whole_rounds - rule.cut_cost} * rule.whole_round;
  if (worth <= CutRule::kCutRound) return true;
  // The fewest rounds of cut units that take as long.
  const int64_t cut_rounds = (worth + CutRule::kCutRound - 1) / CutRule::kCutRound;
  return pages > ctas * (cut_rounds - 1);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_
