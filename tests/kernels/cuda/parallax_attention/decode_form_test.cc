// How decode lays launches out, and which lengths it reads whole. Needs no GPU.
#include "kernels/cuda/parallax_attention/decode_form.h"

#include <gtest/gtest.h>

#include <cstdint>
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

// Whether units of one sequence are read whole, by what the kernel asks (TakesWholeUnits).
bool StaysWhole(int units, int keys, int head_dim, int tiles = 1) {
  const DecodeForm form = DecodeFormOf(H200(), units, tiles, head_dim);
  const int pages = (keys + kPageSize - 1) / kPageSize + kDecodeUnitCost * form.cluster_size;
  const int units_a_cluster = (units + form.num_clusters - 1) / form.num_clusters;
  return WholeUnitsWin(CutRuleOf(form, units, tiles, head_dim), pages * units, form.ctas(),
                       WholeRounds(units_a_cluster, pages, form.cluster_size));
}

// What was faster where both were measured (bench/kernels/cuda/LOG-decode.md, version 10).
TEST(DecodeFormTest, CutsWhatWasFasterCut) {
  EXPECT_FALSE(StaysWhole(1, 4096, 128));
  EXPECT_TRUE(StaysWhole(5, 8192, 128));
  EXPECT_FALSE(StaysWhole(5, 16384, 128));
  EXPECT_TRUE(StaysWhole(6, 16384, 128));
  EXPECT_FALSE(StaysWhole(6, 131072, 128));
  EXPECT_TRUE(StaysWhole(7, 32768, 128));
  EXPECT_FALSE(StaysWhole(7, 131072, 128));
  EXPECT_TRUE(StaysWhole(9, 16384, 128));
  EXPECT_FALSE(StaysWhole(9, 131072, 128));
  EXPECT_TRUE(StaysWhole(10, 16384, 128));
  EXPECT_FALSE(StaysWhole(10, 131072, 128));
  EXPECT_TRUE(StaysWhole(14, 131072, 128));
}

// The same of the sweep of version 11.
TEST(DecodeFormTest, CutsWhatWasFasterCutOf64Dims) {
  EXPECT_TRUE(StaysWhole(1, 4096, 64));
  EXPECT_FALSE(StaysWhole(1, 8192, 64));
  EXPECT_TRUE(StaysWhole(3, 8192, 64));
  EXPECT_FALSE(StaysWhole(3, 16384, 64));
  EXPECT_TRUE(StaysWhole(4, 8192, 64));
  EXPECT_FALSE(StaysWhole(4, 32768, 64));
  EXPECT_FALSE(StaysWhole(5, 16384, 64));
  EXPECT_TRUE(StaysWhole(6, 16384, 64));
  EXPECT_FALSE(StaysWhole(6, 32768, 64));
  EXPECT_TRUE(StaysWhole(7, 16384, 64));
  EXPECT_FALSE(StaysWhole(7, 65536, 64));
  EXPECT_TRUE(StaysWhole(8, 32768, 64));
  EXPECT_TRUE(StaysWhole(10, 65536, 64));
  EXPECT_TRUE(StaysWhole(16, 32768, 64));
  EXPECT_FALSE(StaysWhole(16, 65536, 64));
  EXPECT_TRUE(StaysWhole(20, 65536, 64));
  EXPECT_TRUE(StaysWhole(31, 4096, 64));
  EXPECT_FALSE(StaysWhole(32, 8192, 64));  // launched early in a step
  EXPECT_TRUE(StaysWhole(40, 16384, 64));
  EXPECT_FALSE(StaysWhole(40, 32768, 64));
  EXPECT_TRUE(StaysWhole(48, 65536, 64));
}

TEST(DecodeFormTest, CutsLongUnitsOfSingleCtasAndOfTwoTiles) {
  EXPECT_TRUE(StaysWhole(100, 512, 128));
  EXPECT_FALSE(StaysWhole(100, 4096, 128));
  EXPECT_TRUE(StaysWhole(128, 100'000, 128));  // one each
  EXPECT_TRUE(StaysWhole(300, 400, 128));      // two for some
  EXPECT_FALSE(StaysWhole(300, 2048, 128));
  EXPECT_TRUE(StaysWhole(512, 100'000, 128));  // two each
  for (const int head_dim : {64, 128}) {
    EXPECT_TRUE(StaysWhole(4, 2048, head_dim, /*tiles=*/2));
    EXPECT_FALSE(StaysWhole(4, 16384, head_dim, /*tiles=*/2));
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
      const auto charged = [&](int keys) {
        return (keys + kPageSize - 1) / kPageSize + kDecodeUnitCost * form.cluster_size;
      };
      const int pages = charged(longest) + (sequences - 1) * charged(others);
      // A slice has the longest unit at least.
      const int whole_rounds = WholeRounds(1, charged(longest), form.cluster_size);
      EXPECT_FALSE(WholeUnitsWin(CutRuleOf(form, sequences, tiles, head_dim), pages, form.ctas(),
                                 whole_rounds))
          << sequences << " of " << head_dim << " dims";
    }
  }
}

TEST(DecodeFormTest, OneUnitAGpcStaysWhole) {
  for (const int keys : {1, 1000, 100'000, 1'000'000}) {
    EXPECT_TRUE(StaysWhole(8, keys, 128)) << keys;
  }
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
