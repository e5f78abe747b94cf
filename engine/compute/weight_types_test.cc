// Weights of every type in the operations that take weights.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

class WeightTypesTest : public testing::EveryIsa {
 protected:
  // Two panels and a bit, in whole blocks of every type.
  static constexpr int64_t kCols = 1024 + 256;
  static constexpr int64_t kRows = 77;
};

TEST_P(WeightTypesTest, MultiplyAsTheirValues) {
  for (DType type : testing::kAllWeightTypes) {
    if (UsesIntegers(type) || testing::SplitsInputs(GetParam(), type)) continue;
    SCOPED_TRACE(GetDTypeInfo(type).name);
    const OwnedWeight w(type, kRows, kCols, 1);
    const Weight same = {DType::kF32, kRows, kCols,
                         reinterpret_cast<const std::byte*>(w.values.data())};
    for (int64_t tokens : {1, 2, 7, 30}) {
      const OwnedMat x(tokens, kCols, 2);
      OwnedMat y(tokens, kRows), expected(tokens, kRows);
      two_->MatMul(w.weight, x.mat, y.mat);
      two_->MatMul(same, x.mat, expected.mat);
      EXPECT_EQ(y.values, expected.values) << tokens;
    }
  }
}

TEST_P(WeightTypesTest, MultiplyToWithinRounding) {
  for (DType type : testing::kAllWeightTypes) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    const OwnedWeight w(type, kRows, kCols, 3);
    const OwnedMat x(3, kCols, 4);
    OwnedMat y(3, kRows);
    one_->MatMul(w.weight, x.mat, y.mat);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t r = 0; r < kRows; ++r) {
        double sum = 0, magnitude = 0;
        for (int64_t c = 0; c < kCols; ++c) {
          const double product = double{x.mat.row(t)[c]} * w.values[r * kCols + c];
          sum += product;
          magnitude += std::fabs(product);
        }
        ASSERT_NEAR(y.mat.row(t)[r], sum, Tolerance(type) * magnitude) << t << "," << r;
      }
    }
  }
}

TEST_P(WeightTypesTest, ARowsResultDoesNotDependOnItsNeighboursOrThreads) {
  constexpr int64_t kTokens = 70;
  for (DType type : testing::kAllWeightTypes) {
    const OwnedWeight w(type, kRows, kCols, 5);
    const OwnedMat x(kTokens, kCols, 6);
    OwnedMat alone(kTokens, kRows);
    for (int64_t t = 0; t < kTokens; ++t) {
      one_->MatMul(w.weight, {x.mat.row(t), 1, kCols}, {alone.mat.row(t), 1, kRows});
    }
    for (int64_t tokens : {2, 5, 6, 7, 8, 13, 64, 70}) {
      for (Backend* backend : {one_.get(), two_.get()}) {
        OwnedMat batch(tokens, kRows);
        backend->MatMul(w.weight, x.mat.first_rows(tokens), batch.mat);
        ASSERT_EQ(std::memcmp(batch.values.data(), alone.values.data(),
                              batch.values.size() * sizeof(float)),
                  0)
            << GetDTypeInfo(type).name << " tokens " << tokens;
      }
    }
  }
}

TEST_P(WeightTypesTest, EmbedAsTheirValues) {
  for (DType type : testing::kAllWeightTypes) {
    const OwnedWeight table(type, 5, 512, 7);
    const std::vector<int32_t> ids = {4, 0, 4, 2};
    OwnedMat out(4, 512);
    one_->Embed(table.weight, ids, out.mat);
    for (size_t i = 0; i < ids.size(); ++i) {
      const float* expected = table.values.data() + ids[i] * 512;
      EXPECT_EQ(out.row(static_cast<int64_t>(i)), std::vector<float>(expected, expected + 512))
          << GetDTypeInfo(type).name;
    }
  }
}

TEST_P(WeightTypesTest, GainsMayHaveThem) {
  for (DType type : testing::kAllWeightTypes) {
    const OwnedWeight gain(type, 1, 768, 12);
    const OwnedWeight bias(type, 1, 768, 13);
    const auto as_f32 = [](const OwnedWeight& w) {
      return Weight{DType::kF32, 1, 768, reinterpret_cast<const std::byte*>(w.values.data())};
    };
    const OwnedMat x(3, 768, 14);
    OwnedMat out(3, 768), expected(3, 768);
    one_->RmsNorm(x.mat, gain.weight, 1e-5f, out.mat);
    one_->RmsNorm(x.mat, as_f32(gain), 1e-5f, expected.mat);
    EXPECT_EQ(out.values, expected.values) << GetDTypeInfo(type).name;
    one_->LayerNorm(x.mat, gain.weight, bias.weight, 1e-5f, out.mat);
    one_->LayerNorm(x.mat, as_f32(gain), as_f32(bias), 1e-5f, expected.mat);
    EXPECT_EQ(out.values, expected.values) << GetDTypeInfo(type).name;
  }
}

// An expert whose three matrices have types of their own gives what the
// operations give one after another.
TEST_P(WeightTypesTest, ExpertsMayMixThem) {
  constexpr int64_t kDim = 512, kFfn = 256, kTokens = 9;
  const std::vector<DType>& types = testing::kAllWeightTypes;
  for (size_t i = 0; i < types.size(); ++i) {
    const OwnedWeight gate(types[i], kFfn, kDim, 8);
    const OwnedWeight up(types[(i + 1) % types.size()], kFfn, kDim, 9);
    const OwnedWeight down(types[(i + 5) % types.size()], kDim, kFfn, 10);
    const ExpertLayout layout =
        ExpertLayout::Packed(kDim, kFfn, gate.weight.dtype, up.weight.dtype, down.weight.dtype);
    std::vector<std::byte> slot(layout.bytes);
    std::copy(gate.bytes.begin(), gate.bytes.end(), slot.begin() + layout.gate_offset);
    std::copy(up.bytes.begin(), up.bytes.end(), slot.begin() + layout.up_offset);
    std::copy(down.bytes.begin(), down.bytes.end(), slot.begin() + layout.down_offset);

    const OwnedMat x(kTokens, kDim, 11);
    std::vector<int32_t> rows(kTokens);
    std::iota(rows.begin(), rows.end(), 0);
    OwnedMat out(kTokens, kDim), expected(kTokens, kDim);
    const ExpertTask task = {.slot = slot.data(), .in_rows = rows, .out_rows = rows};
    two_->ExpertFfn(layout, {&task, 1}, x.mat, out.mat);

    OwnedMat gates(kTokens, kFfn), ups(kTokens, kFfn);
    one_->MatMul(gate.weight, x.mat, gates.mat);
    one_->MatMul(up.weight, x.mat, ups.mat);
    one_->Activate(layout.activation, gates.mat, ups.mat, gates.mat);
    one_->MatMul(down.weight, gates.mat, expected.mat);
    EXPECT_EQ(out.values, expected.values) << GetDTypeInfo(types[i]).name;
  }
}

HOSTLER_FOR_ALL_PRODUCTS(WeightTypesTest);

}  // namespace
}  // namespace hostler
