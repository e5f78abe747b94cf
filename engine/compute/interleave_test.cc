#include "engine/compute/interleave.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace hostler {
namespace {

std::vector<std::byte> RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

class InterleaveTest : public testing::TestWithParam<DType> {};

TEST_P(InterleaveTest, ComesBackAsItWasStored) {
  for (int64_t rows : {1, 15, 16, 17, 40}) {
    for (int64_t cols : {256, 768}) {
      const size_t row_bytes = RowBytes(GetParam(), cols);
      const auto stored = RandomBytes(static_cast<size_t>(rows) * row_bytes, 7);
      std::vector<std::byte> interleaved(stored.size()), back(stored.size());
      InterleaveRows(GetParam(), rows, cols, stored.data(), interleaved.data());
      DeinterleaveRows(GetParam(), rows, cols, interleaved.data(), back.data());
      EXPECT_EQ(back, stored) << rows << " x " << cols;
      EXPECT_EQ(interleaved != stored, rows >= kInterleavedRows);
    }
  }
}

TEST_P(InterleaveTest, RowsAfterTheLastPanelStay) {
  const size_t row_bytes = RowBytes(GetParam(), 256);
  const auto stored = RandomBytes(21 * row_bytes, 9);
  std::vector<std::byte> interleaved(stored.size());
  InterleaveRows(GetParam(), 21, 256, stored.data(), interleaved.data());
  EXPECT_TRUE(std::equal(stored.begin() + static_cast<ptrdiff_t>(16 * row_bytes), stored.end(),
                         interleaved.begin() + static_cast<ptrdiff_t>(16 * row_bytes)));
}

INSTANTIATE_TEST_SUITE_P(Types, InterleaveTest,
                         testing::Values(DType::kQ4_0, DType::kQ8_0, DType::kMXFP4, DType::kIQ4_NL,
                                         DType::kIQ4_XS, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K),
                         [](const auto& info) {
                           return std::string(GetDTypeInfo(info.param).name);
                         });

TEST(InterleaveTest, PlainTypesHaveNoPanels) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ2_K}) {
    EXPECT_FALSE(CanInterleave(type));
  }
}

}  // namespace
}  // namespace hostler
