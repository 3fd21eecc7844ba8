// Which part of the block tables travels with a step.
#include "engine/cuda/block_table_mirror.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace parallax {
namespace {

constexpr int kRows = 8;
constexpr int kStride = 16;

ForwardBatch Tables(const std::vector<std::vector<int32_t>>& rows) {
  ForwardBatch batch;
  for (const auto& row : rows) {
    batch.sequence_slots.push_back(batch.num_sequences());
    batch.block_table_stride = static_cast<int32_t>(row.size());
    batch.block_tables.insert(batch.block_tables.end(), row.begin(), row.end());
  }
  return batch;
}

class BlockTableMirrorTest : public ::testing::Test {
 protected:
  std::vector<int32_t> memory_ = std::vector<int32_t>(kRows * kStride);
  BlockTableMirror mirror_{memory_, kStride};
};

TEST_F(BlockTableMirrorTest, SendsWhatIsNew) {
  EXPECT_EQ(mirror_.Update(Tables({{5, 6, kNoPage}, {7, 8, 9}})), (TableArea{0, 2, 0, 3}));
  EXPECT_EQ(mirror_.Update(Tables({{5, 6, kNoPage}, {7, 8, 9}})), TableArea());
  EXPECT_EQ(mirror_.Update(Tables({{5, 6, 10}, {7, 8, 9}})), (TableArea{0, 1, 2, 1}));
  // One row's second page and the next one's third: the rectangle around both.
  EXPECT_EQ(mirror_.Update(Tables({{5, 4, 10}, {7, 8, 3}})), (TableArea{0, 2, 1, 2}));
  EXPECT_EQ(mirror_.Update(Tables({{5, 4, 10, 1}, {7, 8, 3, 2}, {0, 0, 0, 0}})),
            (TableArea{0, 2, 3, 1}));
  EXPECT_EQ(*mirror_.at(1, 3), 2);
}

TEST_F(BlockTableMirrorTest, ADeviceThatGetsTheAreasHoldsTheTables) {
  std::mt19937 random(3);
  std::vector<int32_t> device(kRows * kStride);
  std::vector<std::vector<int32_t>> rows;
  for (int step = 0; step < 500; ++step) {
    const size_t width = 1 + random() % kStride;
    rows.resize(1 + random() % kRows);
    for (auto& row : rows) {
      row.resize(width, kNoPage);
      if (random() % 4 == 0) row[random() % width] = static_cast<int32_t>(random() % 100);
    }
    const TableArea area = mirror_.Update(Tables(rows));
    for (int row = area.first_row; row < area.first_row + area.rows; ++row) {
      const int32_t* const from = mirror_.at(row, area.first_column);
      std::copy(from, from + area.columns, &device[row * kStride + area.first_column]);
    }
    for (size_t row = 0; row < rows.size(); ++row) {
      EXPECT_TRUE(std::equal(rows[row].begin(), rows[row].end(), &device[row * kStride]))
          << "step " << step << ", row " << row;
    }
  }
}

}  // namespace
}  // namespace parallax
