#include "engine/engine/chunk_control.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

namespace hostler {
namespace {

constexpr int kMaxRows = 512;

class ChunkControlTest : public testing::Test {
 protected:
  // Steps of as many rows as the control wants; returns the number that most of
  // the last ones had.
  int Run(int steps, int decodes, const std::function<double(int rows)>& seconds) {
    std::map<int, int> last;
    for (int i = 0; i < steps; ++i) {
      const int rows = control_.Rows(decodes);
      Took(rows, decodes, seconds(rows));
      if (i >= steps - 8) ++last[rows];
    }
    return std::max_element(last.begin(), last.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }
  void Took(int rows, int decodes, double seconds) {
    control_.OnStep({.decodes = decodes, .prompt_rows = rows, .seconds = seconds});
  }

  ChunkControl control_{{.max_rows = kMaxRows, .target_seconds = 0.5}};
};

TEST_F(ChunkControlTest, WhereNobodyGeneratesAChunkIsAWholeStep) {
  EXPECT_EQ(Run(10, 0, [](int rows) { return rows * 0.1; }), kMaxRows);
}

TEST_F(ChunkControlTest, WithoutATargetAChunkIsAWholeStep) {
  const ChunkControl control({.max_rows = 300, .target_seconds = 0});
  EXPECT_EQ(control.Rows(4), 300);
}

TEST_F(ChunkControlTest, TheChunkIsTheLargestThatKeepsTheGap) {
  // 160 rows a second and 30 ms for the rest.
  const auto seconds = [](int rows) { return 0.03 + rows / 160.0; };
  Run(5, 0, seconds);
  EXPECT_EQ(Run(20, 8, seconds), 64);  // 0.43 s; 128 rows: 0.83
}

TEST_F(ChunkControlTest, AChunkGrowsFromWhatLittleWasMeasuredFirst) {
  const auto seconds = [](int rows) { return 0.01 + rows / 2000.0; };
  Took(10, 0, 1.0);  // cold
  EXPECT_LT(control_.Rows(1), 16);
  EXPECT_EQ(Run(40, 1, seconds), kMaxRows);
}

TEST_F(ChunkControlTest, WhereReadingCostsMostAChunkPaysForItsReads) {
  // Every chunk reads for 2 s, whatever its size: the gap cannot be kept, and
  // tiny chunks would be nothing but reads.
  const auto seconds = [](int rows) { return std::max(2.0, rows / 160.0); };
  Run(5, 0, seconds);
  const int rows = Run(30, 4, seconds);
  EXPECT_GE(rows / seconds(rows), 0.5 * kMaxRows / seconds(kMaxRows));
  EXPECT_LT(rows, kMaxRows);
}

TEST_F(ChunkControlTest, AChangeOfSpeedIsFollowedBothWays) {
  const auto slow = [](int rows) { return 0.05 + rows / 100.0; };
  const auto fast = [](int rows) { return 0.05 + rows / 1600.0; };
  EXPECT_EQ(Run(30, 2, slow), 32);
  EXPECT_EQ(Run(30, 2, fast), kMaxRows);
  EXPECT_EQ(Run(30, 2, slow), 32);
}

TEST_F(ChunkControlTest, OneSlowStepCostsLittle) {
  const auto seconds = [](int rows) { return 0.03 + rows / 400.0; };
  const int before = Run(20, 2, seconds);
  Took(before, 2, 20);
  EXPECT_GE(control_.Rows(2), before / 4);
  EXPECT_EQ(Run(15, 2, seconds), before);
}

TEST_F(ChunkControlTest, AStepOfFewRowsIsAWholeStep) {
  ChunkControl control({.max_rows = 1, .target_seconds = 0.5});
  EXPECT_EQ(control.Rows(3), 1);
  control.OnStep({.decodes = 3, .prompt_rows = 1, .seconds = 9});
  EXPECT_EQ(control.Rows(3), 1);
}

}  // namespace
}  // namespace hostler
