#include "engine/compute/dequantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/compute/testing.h"
#include "fmt/format.h"

namespace hostler {
namespace {

struct GoldenType {
  DType type;
  const char* name;
  bool exact;
};

constexpr GoldenType kGoldenTypes[] = {
    {DType::kF16, "F16", true},        {DType::kBF16, "BF16", true},
    {DType::kQ8_0, "Q8_0", false},     {DType::kQ4_0, "Q4_0", false},
    {DType::kQ4_1, "Q4_1", false},     {DType::kQ5_0, "Q5_0", false},
    {DType::kQ5_1, "Q5_1", false},     {DType::kQ2_K, "Q2_K", false},
    {DType::kQ3_K, "Q3_K", false},     {DType::kQ4_K, "Q4_K", false},
    {DType::kQ5_K, "Q5_K", false},     {DType::kQ6_K, "Q6_K", false},
    {DType::kIQ4_NL, "IQ4_NL", false}, {DType::kIQ4_XS, "IQ4_XS", false},
    {DType::kMXFP4, "MXFP4", true},    {DType::kTQ1_0, "TQ1_0", false},
    {DType::kTQ2_0, "TQ2_0", false},
};

// Bits, but any NaN for any NaN.
void ExpectSameBits(const std::vector<float>& values, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[i])) << i;
    }
  }
}

// To 1e-6 of the largest value in the block.
void ExpectSameBlocks(const std::vector<float>& values, const std::vector<float>& expected,
                      size_t block) {
  for (size_t begin = 0; begin < expected.size(); begin += block) {
    float largest = 0;
    for (size_t i = begin; i < begin + block; ++i) {
      largest = std::max(largest, std::fabs(expected[i]));
    }
    for (size_t i = begin; i < begin + block; ++i) {
      ASSERT_NEAR(values[i], expected[i], 1e-6f * largest) << i;
    }
  }
}

class GoldenBlocksTest : public ::testing::TestWithParam<GoldenType> {
 protected:
  void SetUp() override {
    const GoldenType& golden = GetParam();
    blocks_ = testing::ReadGoldenBytes(fmt::format("{}.bin", golden.name));
    expected_ = testing::ReadGoldenFloats(fmt::format("{}.f32.npy", golden.name));
    if (blocks_.empty() || expected_.empty()) GTEST_SKIP() << "no golden blocks";
    ASSERT_EQ(blocks_.size(), RowBytes(golden.type, n()));
  }
  int64_t n() const { return static_cast<int64_t>(expected_.size()); }
  const std::byte* in() const { return reinterpret_cast<const std::byte*>(blocks_.data()); }

  std::string blocks_;
  std::vector<float> expected_;
};

TEST_P(GoldenBlocksTest, HaveTheReferenceValues) {
  std::vector<float> values(expected_.size());
  ConvertToF32(GetParam().type, in(), n(), values.data());
  if (GetParam().exact) {
    ExpectSameBits(values, expected_);
  } else {
    ExpectSameBlocks(values, expected_,
                     static_cast<size_t>(GetDTypeInfo(GetParam().type).block_elements));
  }
}

TEST_P(GoldenBlocksTest, EmbedToTheSameValuesWithEveryInstructionSet) {
  std::vector<float> values(expected_.size());
  ConvertToF32(GetParam().type, in(), n(), values.data());
  for (const std::string& isa : testing::SupportedIsas()) {
    SCOPED_TRACE(isa);
    std::vector<float> embedded(values.size());
    const std::vector<int32_t> ids = {0};
    testing::NewBackend(1, isa)->Embed({GetParam().type, 1, n(), in()}, ids,
                                       {embedded.data(), 1, n()});
    ExpectSameBits(embedded, values);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GoldenBlocksTest, ::testing::ValuesIn(kGoldenTypes),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(DequantizeTest, E8M0IsAPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    EXPECT_EQ(E8M0ToF32(static_cast<uint8_t>(bits)), std::ldexp(1.0f, bits - 127));
  }
  EXPECT_TRUE(std::isnan(E8M0ToF32(255)));
}

TEST(DequantizeTest, F8HasTheValuesOfItsDefinition) {
  for (int bits = 0; bits < 256; ++bits) {
    const std::byte in = static_cast<std::byte>(bits);
    float value;
    ConvertToF32(DType::kF8E4M3, &in, 1, &value);
    const int exponent = bits >> 3 & 15;
    const int mantissa = bits & 7;
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    const double magnitude = exponent == 0 ? std::ldexp(mantissa / 8.0, -6)
                                           : std::ldexp(1 + mantissa / 8.0, exponent - 7);
    EXPECT_EQ(value, bits & 0x80 ? -magnitude : magnitude) << bits;
    EXPECT_EQ(std::signbit(value), (bits & 0x80) != 0) << bits;
  }
}

}  // namespace
}  // namespace hostler
