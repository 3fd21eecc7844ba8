// How decode lays launches out, and which lengths it reads whole. Needs no GPU.
#include "kernels/cuda/parallax_attention/decode_form.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <tuple>

#include "kernels/kv_cache_view.h"

namespace parallax::kernels::cuda {
namespace {

DeviceProperties H200() {
  DeviceProperties device;
  device.compute_capability = 90;
  device.num_sms = 132;
  return device;
}

// What a unit of so many keys counts for.
int ChargedPages(const DecodeForm& form, int keys) {
  return (keys + kPageSize - 1) / kPageSize + kDecodeUnitCost * form.cluster_size;
}

enum Reading { kCut, kWhole };

// How equal units are to be read.
struct Decision {
  int units;
  int keys;
  Reading reading;
};

// Of one sequence, by what the kernel asks (TakesWholeUnits).
void ExpectDecisions(int head_dim, int tiles, std::initializer_list<Decision> decisions) {
  for (const auto& [units, keys, reading] : decisions) {
    const DecodeForm form = DecodeFormOf(H200(), units, tiles, head_dim);
    const int pages = ChargedPages(form, keys);
    const int units_a_cluster = (units + form.num_clusters - 1) / form.num_clusters;
    EXPECT_EQ(WholeUnitsWin(CutRuleOf(form, units, tiles, head_dim), pages * units, form.ctas(),
                            WholeRounds(units_a_cluster, pages, form.cluster_size)),
              reading == kWhole)
        << units << " units of " << keys << " keys, " << head_dim << " dims, " << tiles << " tiles";
  }
}

// What was faster where both were measured (bench/kernels/cuda/LOG-decode.md, version 10).
TEST(DecodeFormTest, CutsWhatWasFasterCut) {
  ExpectDecisions(/*head_dim=*/128, /*tiles=*/1,
                  {
                      {1, 4096, kCut},
                      {5, 8192, kWhole},
                      {5, 16384, kCut},
                      {6, 16384, kWhole},
                      {6, 131072, kCut},
                      {7, 32768, kWhole},
                      {7, 131072, kCut},
                      {9, 16384, kWhole},
                      {9, 131072, kCut},
                      {10, 16384, kWhole},
                      {10, 131072, kCut},
                      {14, 131072, kWhole},
                  });
}

// The same of the sweep of version 11.
TEST(DecodeFormTest, CutsWhatWasFasterCutOf64Dims) {
  ExpectDecisions(
      /*head_dim=*/64, /*tiles=*/1,
      {
          {1, 4096, kWhole},   {1, 8192, kCut},     {3, 8192, kWhole},   {3, 16384, kCut},
          {4, 8192, kWhole},   {4, 32768, kCut},    {5, 16384, kCut},    {6, 16384, kWhole},
          {6, 32768, kCut},    {7, 16384, kWhole},  {7, 65536, kCut},    {8, 32768, kWhole},
          {10, 65536, kWhole}, {16, 32768, kWhole}, {16, 65536, kCut},   {20, 65536, kWhole},
          {31, 4096, kWhole},  {32, 8192, kCut},  // launched early in a step
          {40, 16384, kWhole}, {40, 32768, kCut},   {48, 65536, kWhole},
      });
}

TEST(DecodeFormTest, CutsLongUnitsOfSingleCtasAndOfTwoTiles) {
  ExpectDecisions(/*head_dim=*/128, /*tiles=*/1,
                  {
                      {100, 512, kWhole},
                      {100, 4096, kCut},
                      {128, 100'000, kWhole},  // one each
                      {300, 400, kWhole},      // two for some
                      {300, 2048, kCut},
                      {512, 100'000, kWhole},  // two each
                  });
  for (const int head_dim : {64, 128}) {
    ExpectDecisions(head_dim, /*tiles=*/2, {{4, 2048, kWhole}, {4, 16384, kCut}});
  }
}

// What the tests of cut units rely on (decode_test.cc): without a plan they would test little.
TEST(DecodeFormTest, CutsTheTestsOfCutUnits) {
  for (const int head_dim : {64, 128}) {
    for (const auto& [sequences, longest, others, tiles] :
         {std::tuple{2, 8000, 100, 1},
          {3, 310 * kPageSize - 1, 290 * kPageSize, 1},
          {16, 6000, 60, 1},
          {40, 6000, 60, 1},
          {270, 6000, 60, 1},
          {140, 6000, 60, 2}}) {
      const DecodeForm form = DecodeFormOf(H200(), sequences, tiles, head_dim);
      const int pages = ChargedPages(form, longest) + (sequences - 1) * ChargedPages(form, others);
      // A slice has the longest unit at least.
      const int whole_rounds = WholeRounds(1, ChargedPages(form, longest), form.cluster_size);
      EXPECT_FALSE(WholeUnitsWin(CutRuleOf(form, sequences, tiles, head_dim), pages, form.ctas(),
                                 whole_rounds))
          << sequences << " of " << head_dim << " dims";
    }
  }
}

TEST(DecodeFormTest, OneUnitAGpcStaysWhole) {
  ExpectDecisions(
      /*head_dim=*/128, /*tiles=*/1,
      {{8, 1, kWhole}, {8, 1000, kWhole}, {8, 100'000, kWhole}, {8, 1'000'000, kWhole}});
}

// The kernel does not sum up the pages of such batches.
TEST(DecodeFormTest, ShortUnitsStayWholeWhateverTheBatch) {
  for (const int head_dim : {64, 128}) {
    for (int units = 1; units <= 300; ++units) {
      for (const int tiles : {1, 2}) {
        const DecodeForm form = DecodeFormOf(H200(), units, tiles, head_dim);
        const CutRule rule = CutRuleOf(form, units, tiles, head_dim);
        EXPECT_LE(rule.whole_round, CutRule::kCutRound) << units;
        EXPECT_TRUE(WholeUnitsWin(rule, /*pages=*/1, form.ctas(), rule.cut_cost + 1)) << units;
      }
    }
  }
}

// As the occupancy query answers for CTAs that have an SM each.
int ClustersAtOnce(int cluster_size) {
  switch (cluster_size) {
    case 8:
      return 15;
    case 4:
      return 30;
    case 2:
      return 66;
    default:
      return 132;
  }
}

// All CTAs of a form must run at once, so that none waits for another's place.
TEST(DecodeFormTest, FitsTheGpu) {
  for (const int head_dim : {64, 128}) {
    for (int units = 1; units <= 300; ++units) {
      for (const int tiles : {1, 2}) {
        const DecodeForm form = DecodeFormOf(H200(), units, tiles, head_dim);
        EXPECT_LE(form.num_clusters, form.ctas_per_sm * ClustersAtOnce(form.cluster_size)) << units;
        if (form.cluster_size > 1 && tiles == 1) {
          EXPECT_LE(units, form.num_clusters) << units;
        }
      }
    }
  }
}

// Against times of both ways.
TEST(WholeUnitsWinTest, ComparesTimes) {
  std::mt19937 rng(11);
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(rng);
  };
  for (int i = 0; i < 100'000; ++i) {
    const CutRule rule = {pick(1, 9), pick(1, CutRule::kCutRound)};
    const int ctas = pick(1, 264);
    const int pages = pick(1, 100'000);
    const int whole_rounds = pick(1, 2000);
    const int64_t cut_time = int64_t{(pages + ctas - 1) / ctas} * CutRule::kCutRound;
    const int64_t whole_time = int64_t{whole_rounds - rule.cut_cost} * rule.whole_round;
    ASSERT_EQ(WholeUnitsWin(rule, pages, ctas, whole_rounds), cut_time >= whole_time)
        << "seed 11, case " << i;
  }
}

}  // namespace
}  // namespace parallax::kernels::cuda
