#include "engine/compute/quantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "engine/compute/half.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

std::string ReadGolden(const std::string& name) {
  std::ifstream file(HOSTLER_SOURCE_DIR "/../shared/golden/gguf/blocks/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The values of a version 1.0 .npy file of f32.
std::vector<float> ReadGoldenFloats(const std::string& name) {
  const std::string bytes = ReadGolden(name);
  if (bytes.size() < 10) return {};
  uint16_t header;
  std::memcpy(&header, bytes.data() + 8, 2);
  std::vector<float> values((bytes.size() - 10 - header) / 4);
  std::memcpy(values.data(), bytes.data() + 10 + header, values.size() * 4);
  return values;
}

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

TEST(ConvertTest, MatchesTheReferenceValuesOfBlocks) {
  struct Case {
    DType type;
    const char* name;
  };
  for (const Case& c : {Case{DType::kQ8_0, "Q8_0"}, {DType::kF16, "F16"}, {DType::kBF16, "BF16"}}) {
    const std::string blocks = ReadGolden(std::string(c.name) + ".bin");
    const std::vector<float> expected = ReadGoldenFloats(std::string(c.name) + ".f32.npy");
    if (blocks.empty() || expected.empty()) GTEST_SKIP() << "no golden blocks";
    std::vector<float> values(expected.size());
    ASSERT_EQ(blocks.size(), RowBytes(c.type, static_cast<int64_t>(values.size())));
    const std::byte* in = reinterpret_cast<const std::byte*>(blocks.data());
    ConvertToF32(c.type, in, static_cast<int64_t>(values.size()), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(values[i])) << c.name << " " << i;
      } else {
        ASSERT_EQ(values[i], expected[i]) << c.name << " " << i;
      }
    }
    // Embedding reads the same blocks with the kernels of every instruction set.
    for (const std::string& isa : testing::SupportedIsas()) {
      std::vector<float> embedded(values.size());
      const std::vector<int32_t> ids = {0};
      const int64_t n = static_cast<int64_t>(values.size());
      testing::NewBackend(1, isa)->Embed({c.type, 1, n, in}, ids, {embedded.data(), 1, n});
      for (size_t i = 0; i < values.size(); ++i) {
        if (std::isnan(values[i])) continue;
        ASSERT_EQ(embedded[i], values[i]) << isa << " " << c.name << " " << i;
      }
    }
  }
}

TEST(QuantizeTest, GivesTheReferenceBlocks) {
  const std::vector<float> values = ReadGoldenFloats("Q8_0.quantise_input.npy");
  const std::string expected = ReadGolden("Q8_0.quantised.bin");
  if (values.empty() || expected.empty()) GTEST_SKIP() << "no golden blocks";
  std::vector<std::byte> blocks(expected.size());
  QuantizeQ8_0(values.data(), static_cast<int64_t>(values.size()), blocks.data());
  EXPECT_EQ(std::memcmp(blocks.data(), expected.data(), blocks.size()), 0);
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

TEST(QuantizeTest, OddBlocksAreDefined) {
  std::vector<float> values(32 * 4, 0.0f);
  values[32] = 1e-40f;
  values[64 + 5] = 1e30f;
  values[96 + 7] = NAN;
  std::vector<std::byte> blocks(34 * 4);
  std::vector<float> back(values.size());
  QuantizeQ8_0(values.data(), 32 * 4, blocks.data());
  ConvertToF32(DType::kQ8_0, blocks.data(), 32 * 4, back.data());
  EXPECT_EQ(back[0], 0.0f);
  EXPECT_EQ(back[32], 0.0f);
  EXPECT_TRUE(std::isnan(back[64]));
  EXPECT_TRUE(std::isnan(back[96]));
}

TEST(ConvertTest, ConvertsBetweenAllWeightTypes) {
  constexpr int64_t kValues = 32 * 70;
  const DType types[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0};
  for (DType from : types) {
    const testing::OwnedWeight w(from, 1, kValues, 3);
    for (DType to : types) {
      std::vector<std::byte> out(RowBytes(to, kValues));
      ConvertRows(from, to, w.bytes.data(), kValues, out.data());
      std::vector<float> back(kValues);
      ConvertToF32(to, out.data(), kValues, back.data());
      const float step = to == DType::kQ8_0 ? 0.02f : to == DType::kBF16 ? 0.01f : 0.001f;
      for (size_t i = 0; i < back.size(); ++i) {
        ASSERT_NEAR(back[i], w.values[i], from == to || to == DType::kF32 ? 0 : step);
      }
    }
  }
}

}  // namespace
}  // namespace hostler
