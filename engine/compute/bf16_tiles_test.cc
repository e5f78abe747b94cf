#include "engine/compute/bf16_tiles.h"

#include <algorithm>
#include <cmath>

#include "engine/compute/half.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

class Bf16TilesTest : public testing::EveryIsa {};

std::vector<float> Rounded(const std::vector<float>& values) {
  std::vector<float> rounded(values);
  for (float& value : rounded) value = Bf16ToF32(F32ToBf16(value));
  return rounded;
}

TEST_P(Bf16TilesTest, MultipliesRoundedValuesAndAddsTheBias) {
  if (!one_->HasMatMulBf16()) GTEST_SKIP() << "no tiles of bf16";
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 32}, {48, 96}, {336, 64}}) {
    const OwnedWeight w(DType::kF32, rows, cols, 1);
    const std::vector<float> bias = testing::RandomValues(rows, 2);
    std::vector<std::byte> packed(static_cast<size_t>(rows * cols) * 2);
    PackBf16Tiles(w.values.data(), rows, cols, packed.data());
    const Bf16Tiles tiles = {rows, cols, packed.data()};
    const std::vector<float> rounded = Rounded(w.values);
    for (int64_t tokens : {1, 16, 17, 31, 33, 130, 300}) {
      const OwnedMat x(tokens, cols, 3);
      const std::vector<float> inputs = Rounded(x.values);
      OwnedMat y(tokens, rows), by_two(tokens, rows), alone(1, rows);
      one_->MatMulBf16(tiles, bias.data(), x.mat, y.mat);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          double sum = bias[r], magnitude = std::fabs(sum);
          for (int64_t c = 0; c < cols; ++c) {
            const double product = double{inputs[t * cols + c]} * rounded[r * cols + c];
            sum += product;
            magnitude += std::fabs(product);
          }
          ASSERT_NEAR(y.mat.row(t)[r], sum, 1e-6 * magnitude) << "token " << t << ", row " << r;
        }
      }
      two_->MatMulBf16(tiles, bias.data(), x.mat, by_two.mat);
      EXPECT_EQ(y.values, by_two.values) << "with two threads";
      one_->MatMulBf16(tiles, bias.data(), {x.mat.row(tokens - 1), 1, cols}, alone.mat);
      EXPECT_EQ(y.row(tokens - 1), alone.values) << "without the others";
    }
  }
}

HOSTLER_FOR_EVERY_ISA(Bf16TilesTest);

}  // namespace
}  // namespace hostler
