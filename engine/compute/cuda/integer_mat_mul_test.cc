// Products in integers: the kernels, and their twin on the host, give the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/compute/cuda/cuda_backend.h"
#include "engine/compute/cuda/host_integer_mat_mul.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

std::vector<DType> IntegerTypes() {
  std::vector<DType> types;
  std::copy_if(testing::kAllWeightTypes.begin(), testing::kAllWeightTypes.end(),
               std::back_inserter(types), HasIntegers);
  return types;
}

std::vector<float> OnHost(const OwnedWeight& w, const OwnedMat& x) {
  std::vector<float> y(static_cast<size_t>(x.mat.rows * w.weight.rows));
  HostIntegerMatMul(w.weight, HostIntegerInputs(x.mat), y.data(), w.weight.rows);
  return y;
}

class IntegerMatMulTest : public ::testing::Test {
 protected:
  ~IntegerMatMulTest() override {
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }
  std::vector<float> OnDevice(const OwnedWeight& w, const OwnedMat& x, int64_t rows) {
    OwnedMat y(rows, w.weight.rows);
    backend_->MatMul(w.weight, x.mat.first_rows(rows), y.mat);
    return y.values;
  }
  void ExpectTwins(DType type, int64_t rows, int64_t cols, const OwnedMat& x) {
    const OwnedWeight w(type, rows, cols, static_cast<uint32_t>(rows + cols));
    const std::vector<float> expected = OnHost(w, x);
    // Few at a time, and all on tensor cores.
    for (int64_t tokens : {int64_t{1}, int64_t{kFewTokens}, x.mat.rows}) {
      const std::vector<float> y = OnDevice(w, x, tokens);
      ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0)
          << GetDTypeInfo(type).name << " " << tokens << " x " << rows << " x " << cols;
    }
  }

  std::unique_ptr<Backend> backend_ = testing::NewBackend(1, "cuda");
};

TEST_F(IntegerMatMulTest, HostAndBothKernelsGiveTheSameBits) {
  for (DType type : IntegerTypes()) {
    const int block = GetDTypeInfo(type).block_elements;
    for (int64_t cols : {block, 3 * block, 1024, 1024 + block, 4352}) {
      const OwnedMat x(kFewTokens + 6, cols, 2);
      for (int64_t rows : {1, 21}) ExpectTwins(type, rows, cols, x);
    }
  }
}

TEST_F(IntegerMatMulTest, WhateverTheNumberOfRows) {
  for (DType type : {DType::kQ4_0, DType::kQ6_K}) {
    const OwnedMat x(2 * kTensorTokens + 3, 512, 2);
    const OwnedWeight w(type, 70, 512, 3);
    const std::vector<float> expected = OnHost(w, x);
    for (int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 63, 64, 65, 131}) {
      const std::vector<float> y = OnDevice(w, x, tokens);
      ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << tokens;
    }
  }
}

// Enough rows that blocks take 16, 32, 64 and 128 of them, and more columns than few rows' kernel
// has shared memory for.
TEST_F(IntegerMatMulTest, WhateverTheShapeOfTheWeights) {
  for (int64_t rows : {17, 264 * 32, 264 * 64 + 5, 264 * 128}) {
    const OwnedMat x(6, 32, 2);
    ExpectTwins(DType::kQ8_0, rows, 32, x);
  }
  ExpectTwins(DType::kQ8_0, 5, 65536 + 32, OwnedMat(5, 65536 + 32, 2));
}

TEST_F(IntegerMatMulTest, WeightsAreWhatTheirValuesAre) {
  // One input that is not 0, of each column in turn: the products are the weights.
  for (DType type : IntegerTypes()) {
    const OwnedWeight w(type, 2, 256, 5);
    OwnedMat x(256, 256);
    for (int64_t i = 0; i < 256; ++i) x.mat.row(i)[i] = 1;
    const std::vector<float> y = OnHost(w, x);
    for (size_t i = 0; i < 256; ++i) {
      for (size_t r = 0; r < 2; ++r) {
        const float value = w.values[r * 256 + i];
        ASSERT_NEAR(y[i * 2 + r], value, 1e-5 * std::fabs(value) + 1e-6)
            << GetDTypeInfo(type).name << " " << i;
      }
    }
  }
}

TEST_F(IntegerMatMulTest, ExtremeInputsAndScales) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float extremes[] = {
      0.0f,   -0.0f, 1e-45f,    1e-31f,     3e-30f,
      -3e38f, 3e38f, kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()};
  OwnedMat x(10, 256, 2);
  for (int64_t r = 0; r < 10; ++r) {
    for (int64_t c = 0; c < 256; c += 3) x.mat.row(r)[c] = extremes[r];
  }
  for (DType type : IntegerTypes()) {
    OwnedWeight w(type, 9, 256, 5);
    // Any bytes: scales that are huge, subnormal, infinite or no numbers are among them.
    std::mt19937 random(7);
    for (std::byte& byte : w.bytes) byte = static_cast<std::byte>(random());
    const std::vector<float> expected = OnHost(w, x);
    for (int64_t tokens : {4, 10}) {
      const std::vector<float> y = OnDevice(w, x, tokens);
      for (size_t i = 0; i < y.size(); ++i) {
        if (std::isnan(expected[i]) && std::isnan(y[i])) continue;
        ASSERT_EQ(std::memcmp(&y[i], &expected[i], sizeof(float)), 0)
            << GetDTypeInfo(type).name << " " << i << ": " << y[i] << " " << expected[i];
      }
    }
  }
}

// The CPU's kernels with inputs of as many bits are the same arithmetic.
TEST_F(IntegerMatMulTest, GivesTheBitsOfAmx) {
  if (testing::MostQuant("amx", DType::kQ8_0) != kMostQuant) GTEST_SKIP() << "no AMX";
  const std::unique_ptr<Backend> amx = testing::NewBackend(1, "amx");
  for (DType type : {DType::kQ8_0, DType::kIQ4_NL, DType::kIQ4_XS}) {
    const OwnedWeight w(type, 33, 1280, 1);
    const OwnedMat x(7, 1280, 2);
    OwnedMat y(7, 33);
    amx->MatMul(w.weight, x.mat, y.mat);
    EXPECT_EQ(y.values, OnHost(w, x)) << GetDTypeInfo(type).name;
  }
}

TEST_F(IntegerMatMulTest, InstructionSetsAgree) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) GTEST_SKIP();
  std::mt19937 random(3);
  std::vector<int16_t> w(416);
  for (int16_t& q : w) q = static_cast<int8_t>(random());
  const std::vector<float> scales = testing::RandomValues(4 * 13, 4);
  const HostIntegerInputs x(OwnedMat(5, 416, 5).mat);
  for (bool halves : {false, true}) {
    for (bool mins : {false, true}) {
      std::vector<float> portable(5), avx2(5);
      SumHostIntegersPortable({w.data(), scales.data(), halves, mins, &x}, portable.data());
      SumHostIntegersAvx2({w.data(), scales.data(), halves, mins, &x}, avx2.data());
      EXPECT_EQ(portable, avx2);
    }
  }
}

TEST_F(IntegerMatMulTest, RowsOfAMatrixMayBeComputedApart) {
  const OwnedWeight w(DType::kQ5_K, 30, 512, 1);
  const OwnedMat x(11, 512, 2);
  const HostIntegerInputs inputs(x.mat);
  std::vector<float> y(11 * 30);
  for (int64_t first : {0, 7, 19}) {
    const int64_t end = first == 0 ? 7 : first == 7 ? 19 : 30;
    const Weight part = {DType::kQ5_K, end - first, 512,
                         w.bytes.data() + static_cast<size_t>(first) * RowBytes(DType::kQ5_K, 512)};
    HostIntegerMatMul(part, inputs, y.data() + first, 30);
  }
  EXPECT_EQ(y, OnHost(w, x));
}

TEST_F(IntegerMatMulTest, F32KernelsTakeInputsAsTheyAre) {
  const std::unique_ptr<Backend> exact = testing::NewBackend(1, "cuda_f32");
  const OwnedWeight w(DType::kQ8_0, 3, 64, 1);
  const Weight same = {DType::kF32, 3, 64, reinterpret_cast<const std::byte*>(w.values.data())};
  const OwnedMat x(2, 64, 2);
  OwnedMat y(2, 3), expected(2, 3), integers(2, 3);
  exact->MatMul(w.weight, x.mat, y.mat);
  exact->MatMul(same, x.mat, expected.mat);
  backend_->MatMul(w.weight, x.mat, integers.mat);
  EXPECT_EQ(y.values, expected.values);
  EXPECT_NE(integers.values, expected.values);
  EXPECT_EQ(NewCudaBackend(0, {.kernels = "avx2"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hostler
