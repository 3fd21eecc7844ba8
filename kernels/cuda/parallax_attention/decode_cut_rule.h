// Whether a decode batch's units are read whole or cut into equal slices (decode_plan.cuh).
//
// Thread safety: stateless. Host and device code.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_

namespace parallax::kernels::cuda {

// A round is the time in which every CTA that reads at all reads a page.
struct CutRule {
  // Rounds that are rather read than a unit cut: a merge through global memory, with what the CTAs
  // that have parts of two units lose besides.
  int cut_cost = 3;
  // Time of a round where units are whole, so that fewer CTAs share the memory, and where they are
  // cut. Only the ratio counts. whole_round <= cut_round: then units of at most cut_cost + 1 rounds
  // are whole whatever the batch.
  int whole_round = 1;
  int cut_round = 1;
};

// Whether whole units, of which the fullest slice takes `whole_rounds`, are read no later than
// `pages` in equal slices over `ctas`, merges included.
constexpr bool WholeUnitsWin(const CutRule& rule, int pages, int ctas, int whole_rounds) {
  const int worth = (whole_rounds - rule.cut_cost) * rule.whole_round;
  // The fewest rounds of cut units that take as long.
  const int cut_rounds =
      rule.cut_round == 1 ? worth : (worth + rule.cut_round - 1) / rule.cut_round;
  return pages > ctas * (cut_rounds - 1);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CUT_RULE_H_
