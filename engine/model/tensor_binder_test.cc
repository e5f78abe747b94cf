// Whatever order a matrix's rows lie in and are wanted in, what is bound has its values.
#include "engine/model/tensor_binder.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/compute/convert_weight.h"
#include "engine/compute/quantize.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

constexpr int64_t kCols = 64;

// Tensors in memory.
class MemorySource : public WeightSource {
 public:
  // A matrix of random values.
  void Add(const std::string& name, DType type, int64_t rows, bool interleaved) {
    std::mt19937 random(static_cast<uint32_t>(rows));
    std::normal_distribution<float> normal;
    std::vector<float> values(rows * kCols);
    for (float& value : values) value = normal(random);
    TensorInfo tensor{name, type, {rows, kCols}, 0, data_.size(), RowBytes(type, kCols) * rows};
    tensor.interleaved = interleaved;
    data_.resize(data_.size() + tensor.bytes);
    ConvertWeight({DType::kF32, rows, kCols, std::as_bytes(std::span(values)).data()}, 0,
                  {type, rows, kCols, nullptr, interleaved}, data_.data() + tensor.offset);
    tensors_.push_back(tensor);
  }

  std::string_view format() const override { return "memory"; }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  std::span<const std::string> files() const override { return {}; }
  const TensorInfo* Find(std::string_view name) const override {
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return std::span(data_).subspan(tensor.offset, tensor.bytes);
  }
  void Release(std::span<const std::byte>) const override {}
  absl::Status Health() const override { return absl::OkStatus(); }

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<std::byte> data_;
};

std::vector<float> Values(const Weight& weight, int64_t first, int64_t rows) {
  std::vector<float> values(rows * weight.cols);
  ConvertWeight(weight, first, {DType::kF32, rows, weight.cols},
                reinterpret_cast<std::byte*>(values.data()));
  return values;
}

// With the kernels that want rows interleaved, if there are, and those that do not.
class TensorBinderTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto backend = NewCpuBackend(2, GetParam());
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    for (const int64_t rows : {1, 15, 16, 48, 65}) {
      for (const bool interleaved : {false, rows >= kInterleavedRows}) {
        source_.Add(Name(rows, interleaved), DType::kQ8_0, rows, interleaved);
      }
    }
    source_.Add("bf16", DType::kBF16, 48, false);
  }

  static std::string Name(int64_t rows, bool interleaved) {
    return std::to_string(rows) + (interleaved ? " interleaved" : " as stored");
  }
  bool Wanted(int64_t rows) const {
    return rows >= kInterleavedRows && backend_->Interleaves(DType::kQ8_0);
  }
  TensorBinder Binder(bool quantize = false) {
    return TensorBinder(&source_, backend_.get(), quantize, false);
  }
  Weight Source(const std::string& name) const {
    const TensorInfo& tensor = *source_.Find(name);
    return {tensor.dtype, tensor.shape[0], kCols, source_.Data(tensor).data(), tensor.interleaved};
  }
  void ExpectRows(const Weight& weight, const std::string& name, int64_t first = 0) {
    ASSERT_NE(weight.data, nullptr) << name;
    EXPECT_EQ(Values(weight, 0, weight.rows), Values(Source(name), first, weight.rows)) << name;
  }

  MemorySource source_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(TensorBinderTest, MatricesLieAsProductsWantThem) {
  TensorBinder binder = Binder();
  for (const int64_t rows : {1, 15, 16, 48, 65}) {
    for (const bool interleaved : {false, true}) {
      const std::string name = Name(rows, interleaved);
      if (!binder.Has(name)) continue;
      for (const Weight& weight :
           {binder.Matrix(name, rows, kCols), binder.MatrixAsStored(name, rows, kCols)}) {
        EXPECT_EQ(weight.interleaved, Wanted(rows)) << name;
        ExpectRows(weight, name);
        const bool in_place = weight.data == Source(name).data;
        EXPECT_EQ(in_place, interleaved == Wanted(rows)) << name;
      }
      EXPECT_EQ(binder.Floats(name, rows, kCols), Values(Source(name), 0, rows)) << name;
    }
  }
  EXPECT_TRUE(binder.status().ok()) << binder.status();
}

TEST_P(TensorBinderTest, ATableStaysAsItLies) {
  TensorBinder binder = Binder();
  for (const bool interleaved : {false, true}) {
    const Weight table = binder.Table(Name(65, interleaved), 65, kCols);
    EXPECT_EQ(table.data, Source(Name(65, interleaved)).data);
    EXPECT_EQ(table.interleaved, interleaved);
    // And can be looked up so.
    const std::vector<int32_t> ids = {64, 0, 17};
    std::vector<float> out(ids.size() * kCols);
    backend_->Embed(table, ids, {out.data(), int64_t(ids.size()), kCols});
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(std::vector<float>(out.begin() + i * kCols, out.begin() + (i + 1) * kCols),
                Values(table, ids[i], 1));
    }
  }
}

TEST_P(TensorBinderTest, PartsOfAMatrixHaveTheirRows) {
  TensorBinder binder = Binder();
  for (const bool interleaved : {false, true}) {
    const std::string name = Name(65, interleaved);
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 48},
                                      {16, 49},
                                      {16, 20},
                                      {0, 8},
                                      {5, 60},
                                      {48, 17},
                                      {64, 1}}) {
      const Weight part = binder.MatrixRows(name, 65, first, rows, kCols);
      EXPECT_EQ(part.interleaved, Wanted(rows));
      ExpectRows(part, name, first);
    }
  }
}

TEST_P(TensorBinderTest, HeadsAreWholePanelsOrAsStored) {
  TensorBinder binder = Binder();
  for (const bool interleaved : {false, true}) {
    const std::string name = Name(48, interleaved);
    for (const int heads : {1, 2, 3}) {  // of 48, 24 and 16 rows
      const Weight weight = binder.Matrix(name, 48, kCols, heads);
      EXPECT_EQ(weight.interleaved, heads != 2 && Wanted(48)) << heads;
      ExpectRows(weight, name);
    }
  }
  const std::vector<float> values(48 * kCols, 0.5f);
  EXPECT_FALSE(binder.MakeMatrix(values, DType::kQ8_0, 48, kCols, 2).interleaved);
  const Weight made = binder.MakeMatrix(values, DType::kQ8_0, 48, kCols, 3);
  EXPECT_EQ(made.interleaved, Wanted(48));
  EXPECT_NEAR(Values(made, 47, 1)[0], 0.5f, 1e-2f);
}

TEST_P(TensorBinderTest, WhatIsQuantisedLiesAsProductsWantIt) {
  TensorBinder binder = Binder(/*quantize=*/true);
  const Weight weight = binder.Matrix("bf16", 48, kCols);
  EXPECT_EQ(weight.dtype, DType::kQ8_0);
  EXPECT_EQ(weight.interleaved, Wanted(48));
  std::vector<std::byte> expected(weight.bytes());
  ConvertRows(DType::kBF16, DType::kQ8_0, Source("bf16").data, 48 * kCols, expected.data());
  const Weight stored{DType::kQ8_0, 48, kCols, expected.data()};
  EXPECT_EQ(Values(weight, 0, 48), Values(stored, 0, 48));
  const Weight table = binder.Table("bf16", 48, kCols);
  EXPECT_EQ(Values(table, 0, 48), Values(stored, 0, 48));
}

INSTANTIATE_TEST_SUITE_P(Kernels, TensorBinderTest, ::testing::Values("", "f32"),
                         [](const auto& info) {
                           return std::string(*info.param != 0 ? info.param : "best");
                         });

}  // namespace
}  // namespace hostler
