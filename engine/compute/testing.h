// Helpers that the compute tests share: random data, and weights of every type
// with the values they stand for.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/dispatch.h"
#include "engine/compute/quantize.h"
#include "gtest/gtest.h"

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

// Random weights of a type: what a backend is given, and their exact values.
struct OwnedWeight {
  OwnedWeight(DType type, int64_t rows, int64_t cols, uint32_t seed)
      : bytes(RowBytes(type, cols) * static_cast<size_t>(rows)),
        values(RandomValues(rows * cols, seed, 0.5f)) {
    weight = {type, rows, cols, bytes.data()};
    ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), rows * cols,
                bytes.data());
    ConvertToF32(type, bytes.data(), rows * cols, values.data());
  }
  OwnedWeight(const OwnedWeight&) = delete;
  OwnedWeight& operator=(const OwnedWeight&) = delete;

  std::vector<std::byte> bytes;
  std::vector<float> values;
  Weight weight;
};

inline std::unique_ptr<Backend> NewBackend(int threads, std::string_view isa) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = NewCpuBackend(threads, isa);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// A test that runs with every instruction set that this machine has.
class EveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> one_ = NewBackend(1, GetParam());
  std::unique_ptr<Backend> two_ = NewBackend(2, GetParam());
};

inline std::vector<std::string> SupportedIsas() {
  std::vector<std::string> isas;
  for (const KernelTable* table : SupportedKernels()) isas.emplace_back(table->isa);
  return isas;
}

#define HOSTLER_FOR_EVERY_ISA(Suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite, ::testing::ValuesIn(::hostler::testing::SupportedIsas()), \
                           [](const auto& info) { return info.param; })

inline double Silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace hostler::testing
