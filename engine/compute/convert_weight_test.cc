// Converting a matrix, whole or in parts, gives the same rows as converting it row by
// row, whatever the order they lie in before and after.
#include "engine/compute/convert_weight.h"

#include <vector>

#include "engine/compute/quantize.h"
#include "engine/compute/testing.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

constexpr int64_t kRows = 53, kCols = 256;

using Bytes = std::vector<std::byte>;

struct Matrix {
  Matrix(DType type, const std::vector<float>& values, bool interleaved)
      : stored(RowBytes(type, kCols) * kRows), lying(stored.size()) {
    ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), kRows * kCols,
                stored.data());
    weight = {type, kRows, kCols, lying.data(), interleaved};
    if (interleaved) {
      InterleaveRows(type, kRows, kCols, stored.data(), lying.data());
    } else {
      lying = stored;
      weight.data = lying.data();
    }
  }

  Bytes stored, lying;
  Weight weight;
};

// Rows of a weight as they would be stored.
Bytes AsStored(Weight weight, const Bytes& data) {
  Bytes stored(data.size());
  if (!weight.interleaved) return data;
  DeinterleaveRows(weight.dtype, weight.rows, weight.cols, data.data(), stored.data());
  return stored;
}

Bytes Converted(const Weight& from, int64_t first, Weight to) {
  Bytes out(to.bytes());
  ConvertWeight(from, first, to, out.data());
  return out;
}

TEST(ConvertWeightTest, GivesTheRowsInWhateverOrder) {
  const std::vector<float> values = testing::RandomValues(kRows * kCols, 5);
  for (const auto& [from_type, to_type] :
       {std::pair{DType::kQ8_0, DType::kQ8_0}, std::pair{DType::kF32, DType::kQ4_0},
        std::pair{DType::kBF16, DType::kMXFP4}, std::pair{DType::kQ4_0, DType::kQ8_0},
        std::pair{DType::kQ8_0, DType::kF32}}) {
    for (const bool from_interleaved : {false, true}) {
      if (from_interleaved && !CanInterleave(from_type)) continue;
      const Matrix from(from_type, values, from_interleaved);
      for (const bool to_interleaved : {false, true}) {
        if (to_interleaved && !CanInterleave(to_type)) continue;
        for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, kRows},
                                          {0, 32},
                                          {16, kRows - 16},
                                          {16, 5},
                                          {7, 40},
                                          {48, 5},
                                          {52, 1}}) {
          const Weight to{to_type, rows, kCols, nullptr, to_interleaved};
          Bytes expected(to.bytes());
          ConvertRows(from_type, to_type, from.stored.data() + first * RowBytes(from_type, kCols),
                      rows * kCols, expected.data());
          EXPECT_EQ(AsStored(to, Converted(from.weight, first, to)), expected)
              << GetDTypeInfo(from_type).name << (from_interleaved ? " interleaved" : "") << " to "
              << GetDTypeInfo(to_type).name << (to_interleaved ? " interleaved" : "") << ", "
              << rows << " rows from " << first;
        }
      }
    }
  }
}

TEST(ConvertWeightTest, ABackendConvertsTheSameByAllThreads) {
  constexpr int64_t kManyRows = 16 * 123 + 3;
  const std::vector<float> values = testing::RandomValues(kManyRows * kCols, 6);
  const Weight from{DType::kF32, kManyRows, kCols,
                    reinterpret_cast<const std::byte*>(values.data())};
  const auto backend = NewCpuBackend(3);
  ASSERT_TRUE(backend.ok()) << backend.status();
  for (const bool interleaved : {false, true}) {
    const Weight to{DType::kQ8_0, kManyRows - 16, kCols, nullptr, interleaved};
    Bytes out(to.bytes());
    (*backend)->Convert(from, 16, to, out.data());
    EXPECT_EQ(out, Converted(from, 16, to));
  }
}

}  // namespace
}  // namespace hostler
