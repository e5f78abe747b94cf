#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0};

class MatMulTest : public testing::EveryIsa {
 protected:
  // Every y[t, r] lies within rounding of the sum in double precision.
  void ExpectProduct(Backend& backend, DType type, int64_t tokens, int64_t rows, int64_t cols) {
    SCOPED_TRACE(::testing::Message() << GetDTypeInfo(type).name << " tokens " << tokens << " rows "
                                      << rows << " cols " << cols);
    const OwnedWeight w(type, rows, cols, 1);
    const OwnedMat x(tokens, cols, 2);
    OwnedMat y(tokens, rows, 3);
    backend.MatMul(w.weight, x.mat, y.mat);
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<float> taken = AsTaken(type, x.mat.row(t), cols);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0, sum_of_taken = 0, magnitude = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const double weight = w.values[static_cast<size_t>(r * cols + c)];
          sum += x.mat.row(t)[c] * weight;
          sum_of_taken += taken[static_cast<size_t>(c)] * weight;
          magnitude += std::fabs(x.mat.row(t)[c] * weight);
        }
        ASSERT_NEAR(y.mat.row(t)[r], sum, Tolerance(type) * magnitude + 1e-12) << t << "," << r;
        ASSERT_NEAR(y.mat.row(t)[r], sum_of_taken, kRounding * magnitude + 1e-12) << t << "," << r;
      }
    }
  }
};

TEST_P(MatMulTest, MultipliesShapesAroundEveryTileEdge) {
  for (DType type : kWeightTypes) {
    for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 33}) {
      for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 17})
        ExpectProduct(*one_, type, tokens, rows, 64);
    }
  }
}

TEST_P(MatMulTest, MultipliesColumnsThatEndWithinAVector) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t cols : {1, 7, 15, 16, 17, 31, 33, 100}) {
      for (int64_t tokens : {1, 5, 15, 33}) ExpectProduct(*one_, type, tokens, 6, cols);
    }
  }
}

TEST_P(MatMulTest, MultipliesWhatIsCutIntoManyChunks) {
  for (DType type : kWeightTypes) ExpectProduct(*two_, type, 131, 200, 96);
  ExpectProduct(*two_, DType::kBF16, 40, 150, 9000);
}

TEST_P(MatMulTest, ARowsResultDoesNotDependOnItsNeighboursOrThreads) {
  for (DType type : kWeightTypes) {
    const OwnedWeight w(type, 203, type == DType::kQ8_0 ? 1120 : 1109, 1);
    const OwnedMat x(150, w.weight.cols, 2);
    OwnedMat alone(150, 203);
    for (int64_t t = 0; t < 150; ++t) {
      one_->MatMul(w.weight, {x.mat.row(t), 1, x.mat.cols}, {alone.mat.row(t), 1, 203});
    }
    for (int64_t tokens : {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 24, 33, 150}) {
      for (Backend* backend : {one_.get(), two_.get()}) {
        OwnedMat batch(tokens, 203);
        backend->MatMul(w.weight, x.mat.first_rows(tokens), batch.mat);
        ASSERT_EQ(std::memcmp(batch.values.data(), alone.values.data(),
                              batch.values.size() * sizeof(float)),
                  0)
            << GetDTypeInfo(type).name << " tokens " << tokens;
      }
    }
  }
}

TEST_P(MatMulTest, AnOutputFeatureDoesNotDependOnTheOthers) {
  const OwnedWeight w(DType::kBF16, 37, 300, 1);
  const OwnedMat x(5, 300, 2);
  OwnedMat all(5, 37);
  one_->MatMul(w.weight, x.mat, all.mat);
  for (int64_t r = 0; r < 37; ++r) {
    const Weight row = {DType::kBF16, 1, 300, w.bytes.data() + r * 600};
    OwnedMat y(5, 1);
    one_->MatMul(row, x.mat, y.mat);
    for (int64_t t = 0; t < 5; ++t) ASSERT_EQ(y.values[static_cast<size_t>(t)], all.mat.row(t)[r]);
  }
}

TEST_P(MatMulTest, WeightsOfEveryTypeGiveWhatTheirValuesGive) {
  for (DType type : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    if (UsesIntegers(type) || testing::SplitsInputs(GetParam(), type)) continue;
    const OwnedWeight w(type, 21, 256, 1);
    const Weight same = {DType::kF32, 21, 256, reinterpret_cast<const std::byte*>(w.values.data())};
    for (int64_t tokens : {1, 3, 20}) {
      const OwnedMat x(tokens, 256, 2);
      OwnedMat y(tokens, 21);
      OwnedMat expected(tokens, 21);
      one_->MatMul(w.weight, x.mat, y.mat);
      one_->MatMul(same, x.mat, expected.mat);
      EXPECT_EQ(y.values, expected.values) << GetDTypeInfo(type).name;
    }
  }
}

TEST_P(MatMulTest, EveryHeadHasItsOwnMatrix) {
  for (DType type : kWeightTypes) {
    const OwnedWeight w(type, 3 * 70, 96, 1);
    const OwnedMat x(70, 3 * 96, 2);
    OwnedMat y(70, 3 * 70), alone(70, 3 * 70);
    two_->HeadMatMul(w.weight, 3, x.mat, y.mat);
    for (int head = 0; head < 3; ++head) {
      const Weight part = {type, 70, 96, w.bytes.data() + head * 70 * RowBytes(type, 96)};
      OwnedMat in(70, 96), out(70, 70);
      for (int64_t t = 0; t < 70; ++t) std::copy_n(x.mat.row(t) + head * 96, 96, in.mat.row(t));
      one_->MatMul(part, in.mat, out.mat);
      for (int64_t t = 0; t < 70; ++t) {
        ASSERT_EQ(std::memcmp(y.mat.row(t) + head * 70, out.mat.row(t), 70 * sizeof(float)), 0)
            << GetDTypeInfo(type).name << " head " << head << " row " << t;
      }
    }
    for (int64_t t = 0; t < 70; ++t) {
      one_->HeadMatMul(w.weight, 3, {x.mat.row(t), 1, x.mat.cols}, {alone.mat.row(t), 1, 3 * 70});
    }
    EXPECT_EQ(alone.values, y.values) << GetDTypeInfo(type).name;
  }
}

TEST_P(MatMulTest, MultipliesInputsOfAnySize) {
  for (DType type : {DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    const OwnedWeight w(type, 3, 160, 1);
    for (const float scale : {0.0f, 1e-35f, 1e-20f, 1e20f}) {
      for (int64_t tokens : {1, 9}) {
        OwnedMat x(tokens, 160, 2), y(tokens, 3), expected(tokens, 3);
        one_->MatMul(w.weight, x.mat, expected.mat);
        one_->Scale(scale, x.mat);
        one_->MatMul(w.weight, x.mat, y.mat);
        for (size_t i = 0; i < y.values.size(); ++i) {
          ASSERT_NEAR(y.values[i], expected.values[i] * scale, 1e-4 * scale * 160 + 1e-28)
              << GetDTypeInfo(type).name << " scale " << scale;
        }
      }
    }
  }
}

TEST_P(MatMulTest, WhatIsNotFiniteStaysInItsRow) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (DType type : {DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    const OwnedWeight w(type, 18, 160, 1);
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      for (int64_t tokens : {3, 20}) {
        OwnedMat x(tokens, 160, 2), good(tokens, 18), y(tokens, 18);
        one_->MatMul(w.weight, x.mat, good.mat);
        x.mat.row(1)[150] = bad;
        one_->MatMul(w.weight, x.mat, y.mat);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t r = 0; r < 18; ++r) {
            if (t == 1) {
              // Infinity times a weight of zero is one way to NaN.
              EXPECT_FALSE(std::isfinite(y.mat.row(t)[r])) << GetDTypeInfo(type).name;
            } else {
              EXPECT_EQ(y.mat.row(t)[r], good.mat.row(t)[r]) << GetDTypeInfo(type).name;
            }
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, NoRowsAreNoWork) {
  const OwnedWeight w(DType::kF32, 4, 16, 1);
  one_->MatMul(w.weight, {nullptr, 0, 16}, {nullptr, 0, 4});
}

HOSTLER_FOR_ALL_PRODUCTS(MatMulTest);

bool Supports(std::string_view isa) {
  const std::vector<std::string> isas = testing::SupportedIsas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

TEST(MatMulIsaTest, TheWideInstructionSetsAgreeBitForBit) {
  if (!Supports("avx512")) GTEST_SKIP() << "this CPU lacks AVX-512";
  const OwnedWeight w(DType::kQ8_0, 40, 544, 1);
  const OwnedMat x(20, 544, 2);
  OwnedMat avx2(20, 40);
  OwnedMat avx512(20, 40);
  testing::NewBackend(1, "avx2")->MatMul(w.weight, x.mat, avx2.mat);
  testing::NewBackend(1, "avx512")->MatMul(w.weight, x.mat, avx512.mat);
  EXPECT_EQ(avx2.values, avx512.values);
}

// The integer kernels' shapes: one token, several at once, tiles and what is left over.
class IntegerMatMulTest : public testing::EveryIsa {};

TEST_P(IntegerMatMulTest, InterleavedRowsAndNeighboursGiveTheSameBits) {
  for (DType type : testing::kAllWeightTypes) {
    if (!one_->Interleaves(type)) continue;
    for (int64_t cols : {32, 96, 128, 160, 256, 512, 1120, 2304}) {
      if (cols % GetDTypeInfo(type).block_elements != 0) continue;
      for (int64_t rows : {1, 15, 16, 17, 70}) {
        const OwnedWeight w(type, rows, cols, 1);
        std::vector<std::byte> interleaved(w.bytes.size());
        InterleaveRows(type, rows, cols, w.bytes.data(), interleaved.data());
        const OwnedMat all(130, cols, 2);
        OwnedMat alone(130, rows);
        for (int64_t t = 0; t < 130; ++t) {
          one_->MatMul(w.weight, {all.mat.row(t), 1, cols}, {alone.mat.row(t), 1, rows});
        }
        for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 40, 130}) {
          OwnedMat y(tokens, rows);
          two_->MatMul({type, rows, cols, interleaved.data(), true}, all.mat.first_rows(tokens),
                       y.mat);
          ASSERT_EQ(
              std::memcmp(y.values.data(), alone.values.data(), y.values.size() * sizeof(float)), 0)
              << GetDTypeInfo(type).name << " tokens " << tokens << " rows " << rows << " cols "
              << cols;
        }
      }
    }
  }
}

TEST_P(IntegerMatMulTest, EmbedReadsInterleavedRows) {
  for (DType type : testing::kAllWeightTypes) {
    if (!one_->Interleaves(type)) continue;
    const OwnedWeight w(type, 37, 512, 1);
    std::vector<std::byte> interleaved(w.bytes.size());
    InterleaveRows(type, 37, 512, w.bytes.data(), interleaved.data());
    const std::vector<int32_t> ids = {0, 15, 16, 36, 5};
    OwnedMat plain(5, 512), out(5, 512);
    two_->Embed(w.weight, ids, plain.mat);
    two_->Embed({type, 37, 512, interleaved.data(), true}, ids, out.mat);
    EXPECT_EQ(out.values, plain.values) << GetDTypeInfo(type).name;
  }
}

HOSTLER_FOR_EVERY_ISA(IntegerMatMulTest);

}  // namespace
}  // namespace hostler
