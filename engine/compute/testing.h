// Helpers that the compute tests share: random data, and weights of every type
// with the values they stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/dispatch.h"
#include "engine/compute/cpu/integer.h"
#include "engine/compute/cpu/mat_mul.h"
#include "engine/compute/interleave.h"
#include "engine/compute/quantize.h"
#include "gtest/gtest.h"
#if defined(HOSTLER_CUDA)
#include "engine/compute/cuda/cuda_backend.h"
#include "engine/compute/cuda/integers.h"
#include "engine/compute/cuda/staged_backend.h"
#endif
#if defined(HOSTLER_CUDA_EMULATED)
#include "engine/compute/cuda/emulation/emulation.h"
#endif

namespace hostler::testing {

inline std::vector<float> RandomValues(int64_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

// A matrix that owns its values.
struct OwnedMat {
  OwnedMat(int64_t rows, int64_t cols) : values(static_cast<size_t>(rows * cols)) {
    mat = {values.data(), rows, cols};
  }
  OwnedMat(int64_t rows, int64_t cols, uint32_t seed) : values(RandomValues(rows * cols, seed)) {
    mat = {values.data(), rows, cols};
  }
  OwnedMat(const OwnedMat& other) : values(other.values), mat(other.mat) {
    mat.data = values.data();
  }
  OwnedMat& operator=(const OwnedMat&) = delete;

  std::vector<float> row(int64_t i) const { return {mat.row(i), mat.row(i) + mat.cols}; }

  std::vector<float> values;
  Mat mat;
};

inline const std::vector<DType> kAllWeightTypes = [] {
  std::vector<DType> types;
  for (int i = 0; i < kDTypes; ++i) {
    if (IsWeightType(static_cast<DType>(i))) types.push_back(static_cast<DType>(i));
  }
  return types;
}();

// Where the f16 scales of a block lie, for types that ConvertRows cannot write.
inline std::vector<int> ScaleOffsets(DType type) {
  switch (type) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108};
    case DType::kQ6_K:
      return {208};
    case DType::kTQ1_0:
      return {52};
    case DType::kTQ2_0:
      return {64};
    default:
      return {0};  // Q5_0, IQ4_NL, IQ4_XS
  }
}

// Random blocks with scales of which a row of values about 1 results.
inline void RandomBlocks(DType type, uint32_t seed, std::vector<std::byte>* blocks) {
  std::mt19937 random(seed);
  for (std::byte& byte : *blocks) byte = static_cast<std::byte>(random());
  const size_t block_bytes = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
  for (size_t block = 0; block < blocks->size(); block += block_bytes) {
    if (type == DType::kF8E4M3) {
      if (((*blocks)[block] & std::byte{0x7f}) == std::byte{0x7f}) (*blocks)[block] ^= std::byte{1};
      continue;
    }
    for (int offset : ScaleOffsets(type)) {
      const uint16_t scale = static_cast<uint16_t>(0x1400 + random() % 0x800);  // 2^-10 to 2^-8
      std::memcpy(blocks->data() + block + offset, &scale, sizeof scale);
    }
  }
}

// Random weights of a type: what a backend is given, and their exact values.
struct OwnedWeight {
  OwnedWeight(DType type, int64_t rows, int64_t cols, uint32_t seed)
      : bytes(RowBytes(type, cols) * static_cast<size_t>(rows)),
        values(RandomValues(rows * cols, seed, 0.5f)) {
    weight = {type, rows, cols, bytes.data()};
    if (CanConvertTo(type)) {
      ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), rows * cols,
                  bytes.data());
    } else {
      RandomBlocks(type, seed, &bytes);
    }
    ConvertToF32(type, bytes.data(), rows * cols, values.data());
  }
  OwnedWeight(const OwnedWeight&) = delete;
  OwnedWeight& operator=(const OwnedWeight&) = delete;

  std::vector<std::byte> bytes;
  std::vector<float> values;
  Weight weight;
};

// isa: the CPU's, or "cuda", or "cuda_f32" for all its products in f32.
inline std::unique_ptr<Backend> NewBackend(int threads, std::string_view isa) {
#if defined(HOSTLER_CUDA)
  if (isa == "cuda" || isa == "cuda_f32") {
    absl::StatusOr<std::unique_ptr<Backend>> device =
        NewCudaBackend(0, {.kernels = isa == "cuda" ? "" : "f32"});
    EXPECT_TRUE(device.ok()) << device.status();
    return std::make_unique<StagedBackend>(*std::move(device));
  }
#endif
  absl::StatusOr<std::unique_ptr<Backend>> backend = NewCpuBackend(threads, isa);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// Null for types whose inputs an instruction set's kernels take as they are.
inline const UnitKernels* UnitsOf(std::string_view isa, DType type) {
  for (const KernelTable* table : SupportedKernels()) {
    if (table->isa == isa) return UnitKernelsFor(*table, type);
  }
  return nullptr;
}

// The largest magnitude of an input's integer where an instruction set's kernels
// multiply weights of a type in integers (cpu/integer.h, cuda/integers.h); 0 where they do not.
inline int MostQuant(std::string_view isa, DType type) {
#if defined(HOSTLER_CUDA)
  if (isa == "cuda") return HasIntegers(type) ? kMostQuant : 0;
#endif
  if (!CanInterleave(type) || UnitsOf(isa, type) == nullptr) return 0;
  const bool fine = type == DType::kQ8_0 || type == DType::kMXFP4;
  if (isa != "amx" && !fine) return 127;
  const auto most = [](int shift) { return (127 << shift) + (1 << (shift - 1)) - 1; };
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ4_K:
      return most(4);
    case DType::kQ5_K:
    case DType::kMXFP4:
      return most(3);
    case DType::kQ6_K:
      return most(2);
    default:
      return most(8);
  }
}

// Whether inputs are taken as sums of two bf16 (cpu/bf16_split.h).
inline bool SplitsInputs(std::string_view isa, DType type) {
  return type == DType::kBF16 && UnitsOf(isa, type) != nullptr;
}

inline bool UsesIntegers(std::string_view isa, DType type) { return MostQuant(isa, type) > 0; }

// What an instruction set's kernels take a row of inputs for with weights of a type; the
// inputs themselves where they multiply in f32.
inline std::vector<float> AsTaken(std::string_view isa, DType type, const float* x, int64_t cols) {
  std::vector<float> taken(x, x + cols);
  if (SplitsInputs(isa, type)) {
    for (float& value : taken) {
      uint32_t bits = 0;
      const auto rounded = [&](float v) {
        std::memcpy(&bits, &v, sizeof bits);
        bits = (bits + 0x8000) & 0xffff0000;
        std::memcpy(&v, &bits, sizeof v);
        return v;
      };
      const float high = rounded(value);
      value = high + rounded(value - high);
    }
  }
  const int most = MostQuant(isa, type);
  for (int64_t first = 0; most > 0 && first < cols; first += kInputGroup) {
    const int64_t end = std::min<int64_t>(first + kInputGroup, cols);
    float largest = 0;
    for (int64_t c = first; c < end; ++c) largest = std::max(largest, std::fabs(x[c]));
    const float scale = largest * (1.0f / static_cast<float>(most));
    const float inverse = largest >= 1e-30f ? static_cast<float>(most) / largest : 0;
    for (int64_t c = first; c < end; ++c) {
      taken[static_cast<size_t>(c)] = std::nearbyint(x[c] * inverse) * scale;
    }
  }
  return taken;
}

// A test that runs with every instruction set that this machine has, and on a device.
class EveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
#if defined(HOSTLER_CUDA_EMULATED)
  void TearDown() override {
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }
#endif
  bool UsesIntegers(DType type) const { return testing::UsesIntegers(GetParam(), type); }
  int MostQuant(DType type) const { return testing::MostQuant(GetParam(), type); }
  std::vector<float> AsTaken(DType type, const float* x, int64_t cols) const {
    return testing::AsTaken(GetParam(), type, x, cols);
  }
  // How far a product may be off, as a share of the sum of its terms' magnitudes: of
  // inputs as they are taken, and as they are.
  static constexpr double kRounding = 1e-6;
  double Tolerance(DType type) const {
    if (testing::SplitsInputs(GetParam(), type)) return 0x1p-17 + kRounding;
    return UsesIntegers(type) ? 1.0 / MostQuant(type) + kRounding : kRounding;
  }

  std::unique_ptr<Backend> one_ = NewBackend(1, GetParam());
  std::unique_ptr<Backend> two_ = NewBackend(2, GetParam());
};

inline std::vector<std::string> SupportedIsas() {
  std::vector<std::string> isas;
  for (const KernelTable* table : SupportedKernels()) isas.emplace_back(table->isa);
#if defined(HOSTLER_CUDA_EMULATED)
  isas.emplace_back("cuda");
#elif defined(HOSTLER_CUDA)
  if (NewCudaBackend().ok()) isas.emplace_back("cuda");
#endif
  return isas;
}

// Also the device's kernels that have all products in f32.
inline std::vector<std::string> SupportedProducts() {
  std::vector<std::string> isas = SupportedIsas();
  if (isas.back() == "cuda") isas.emplace_back("cuda_f32");
  return isas;
}

#define HOSTLER_FOR_ALL_PRODUCTS(Suite)                                                  \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite,                                                   \
                           ::testing::ValuesIn(::hostler::testing::SupportedProducts()), \
                           [](const auto& info) { return info.param; })

#define HOSTLER_FOR_EVERY_ISA(Suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite, ::testing::ValuesIn(::hostler::testing::SupportedIsas()), \
                           [](const auto& info) { return info.param; })

// A file of the reference blocks, or "" when it is not there.
inline std::string ReadGoldenBytes(const std::string& name) {
  std::ifstream file(HOSTLER_SOURCE_DIR "/../shared/golden/gguf/blocks/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The values of a version 1.0 .npy file of f32 among them.
inline std::vector<float> ReadGoldenFloats(const std::string& name) {
  const std::string bytes = ReadGoldenBytes(name);
  if (bytes.size() < 10) return {};
  uint16_t header;
  std::memcpy(&header, bytes.data() + 8, 2);
  std::vector<float> values((bytes.size() - 10 - header) / 4);
  std::memcpy(values.data(), bytes.data() + 10 + header, values.size() * 4);
  return values;
}

inline double Silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace hostler::testing
