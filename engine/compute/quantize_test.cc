#include "engine/compute/quantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/compute/half.h"
#include "engine/compute/testing.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using testing::ReadGoldenBytes;
using testing::ReadGoldenFloats;

TEST(HalfTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float f16 = F16ToF32(half);
    const float bf16 = Bf16ToF32(half);
    if (std::isnan(f16)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(f16))));
    } else {
      ASSERT_EQ(F32ToF16(f16), half);
    }
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(bf16))));
    } else {
      ASSERT_EQ(F32ToBf16(bf16), half);
    }
  }
}

TEST(HalfTest, RoundsTiesToEven) {
  for (uint16_t half : {0x0000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x3c01, 0x7bfe}) {
    const float here = F16ToF32(half);
    const float next = F16ToF32(half + 1);
    const float middle = (here + next) / 2;
    const uint16_t even = half % 2 == 0 ? half : half + 1;
    EXPECT_EQ(F32ToF16(middle), even) << half;
    EXPECT_EQ(F32ToF16(-middle), even | 0x8000) << half;
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), half);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 1e9f)), half + 1);
  }
  EXPECT_EQ(F32ToF16(65519.9f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToBf16(1.00390625f), 0x3f80);
  EXPECT_EQ(F32ToBf16(1.01171875f), 0x3f82);
  EXPECT_EQ(F32ToBf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(QuantizeTest, GivesTheReferenceBlocks) {
  const std::vector<float> values = ReadGoldenFloats("Q8_0.quantise_input.npy");
  const std::string expected = ReadGoldenBytes("Q8_0.quantised.bin");
  if (values.empty() || expected.empty()) GTEST_SKIP() << "no golden blocks";
  std::vector<std::byte> blocks(expected.size());
  QuantizeQ8_0(values.data(), static_cast<int64_t>(values.size()), blocks.data());
  EXPECT_EQ(std::memcmp(blocks.data(), expected.data(), blocks.size()), 0);
}

// Sum of squared differences between values and what their blocks read back as.
double SquaredError(DType type, const std::byte* blocks, const std::vector<float>& values) {
  std::vector<float> back(values.size());
  ConvertToF32(type, blocks, static_cast<int64_t>(values.size()), back.data());
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = double{back[i]} - double{values[i]};
    sum += difference * difference;
  }
  return sum;
}

TEST(QuantizeTest, ErrorIsNoMoreThanTheReferences) {
  for (const auto& [type, name] :
       {std::pair(DType::kQ8_0, "Q8_0"), {DType::kQ4_0, "Q4_0"}, {DType::kMXFP4, "MXFP4"}}) {
    const std::vector<float> values = ReadGoldenFloats(fmt::format("{}.quantise_input.npy", name));
    const std::string expected = ReadGoldenBytes(fmt::format("{}.quantised.bin", name));
    if (values.empty() || expected.empty()) GTEST_SKIP() << "no golden blocks";
    std::vector<std::byte> blocks(expected.size());
    ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()),
                static_cast<int64_t>(values.size()), blocks.data());
    const double error = SquaredError(type, blocks.data(), values);
    const double reference =
        SquaredError(type, reinterpret_cast<const std::byte*>(expected.data()), values);
    EXPECT_LE(error, reference * (1 + 1e-6)) << name;
  }
}

TEST(QuantizeTest, ErrorStaysWithinHalfAStep) {
  const std::vector<float> values = testing::RandomValues(32 * 50, 1, 3.0f);
  std::vector<std::byte> blocks(RowBytes(DType::kQ8_0, 32 * 50));
  std::vector<float> back(values.size());
  QuantizeQ8_0(values.data(), 32 * 50, blocks.data());
  ConvertToF32(DType::kQ8_0, blocks.data(), 32 * 50, back.data());
  for (size_t b = 0; b < 50; ++b) {
    float largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(values[b * 32 + i]));
    for (size_t i = b * 32; i < (b + 1) * 32; ++i) {
      // Half a step, and the scale's own rounding to f16.
      EXPECT_NEAR(back[i], values[i], largest / 127 * 0.5f + largest / 2048);
    }
  }
}

TEST(QuantizeTest, Mxfp4TakesTheNearestValueTiesToEven) {
  // max 4 gives scale 1: the values are E2M1 as they are.
  std::vector<float> values = {4,    0.25f, 0.26f, 0.75f, 1.25f, 1.75f,
                               2.5f, 3.5f,  -3.4f, -0.2f, 5.1f};
  const std::vector<float> expected = {4, 0, 0.5f, 1, 1, 2, 2, 4, -3, 0, 6};
  values.resize(32);
  std::vector<std::byte> block(17);
  std::vector<float> back(32);
  QuantizeMxfp4(values.data(), 32, block.data());
  ConvertToF32(DType::kMXFP4, block.data(), 32, back.data());
  back.resize(expected.size());
  EXPECT_EQ(back, expected);
}

TEST(QuantizeTest, OddBlocksAreDefined) {
  std::vector<float> values(32 * 5, 0.0f);
  values[32] = 1e-40f;
  values[64 + 5] = INFINITY;
  values[96 + 7] = NAN;
  values[128] = -1e30f;
  for (DType type : {DType::kQ8_0, DType::kQ4_0, DType::kMXFP4}) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    std::vector<std::byte> blocks(RowBytes(type, 32 * 5));
    std::vector<float> back(values.size());
    ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), 32 * 5,
                blocks.data());
    ConvertToF32(type, blocks.data(), 32 * 5, back.data());
    EXPECT_EQ(back[0], 0.0f);
    EXPECT_NEAR(back[32], 0.0f, 1e-38f);
    EXPECT_TRUE(std::isnan(back[64]));
    EXPECT_TRUE(std::isnan(back[96]));
    if (type == DType::kMXFP4) {
      EXPECT_NEAR(back[128], -1e30f, 2e29f);
    } else {
      EXPECT_TRUE(std::isnan(back[129]));  // no f16 scale reaches it
    }
  }
}

TEST(ConvertTest, ConvertsBetweenAllWeightTypes) {
  constexpr int64_t kValues = 32 * 72;
  for (DType from : testing::kAllWeightTypes) {
    const testing::OwnedWeight w(from, 1, kValues, 3);
    for (DType to : testing::kAllWeightTypes) {
      if (from != to && !CanConvertTo(to)) continue;
      std::vector<std::byte> out(RowBytes(to, kValues));
      ConvertRows(from, to, w.bytes.data(), kValues, out.data());
      std::vector<float> back(kValues);
      ConvertToF32(to, out.data(), kValues, back.data());
      float largest = 0;
      for (float value : w.values) largest = std::max(largest, std::fabs(value));
      const float step = to == DType::kQ4_0 || to == DType::kMXFP4 ? 0.26f
                         : to == DType::kQ8_0                      ? 0.006f
                         : to == DType::kBF16                      ? 0.004f
                                                                   : 0.0005f;
      for (size_t i = 0; i < back.size(); ++i) {
        ASSERT_NEAR(back[i], w.values[i], from == to || to == DType::kF32 ? 0 : step * largest)
            << GetDTypeInfo(from).name << " to " << GetDTypeInfo(to).name;
      }
    }
  }
}

}  // namespace
}  // namespace hostler
