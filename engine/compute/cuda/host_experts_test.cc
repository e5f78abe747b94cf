// What the host computes of experts has the device's bits.
#include "engine/compute/cuda/host_experts.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/compute/cuda/cuda_backend.h"
#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/compute/cuda/exact_math.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

// With products in integers and in f32.
class HostExpertsTest : public ::testing::TestWithParam<const char*> {
 protected:
  HostExpertsTest() : backend_(*NewCudaBackend(0, {.kernels = GetParam(), .host_threads = 2})) {}
  bool integers() const { return *GetParam() == 0; }
  ~HostExpertsTest() override {
    backend_->ReadBack({}, nullptr).IgnoreError();
    buffers_.clear();
    tier_.reset();
    host_.reset();
    backend_.reset();
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  std::byte* OnDevice(const void* data, size_t bytes) {
    buffers_.push_back(*backend_->Allocate(bytes));
    const Weight whole = {DType::kF8E4M3, 1, static_cast<int64_t>(bytes),
                          static_cast<const std::byte*>(data)};
    backend_->Convert(whole, 0, whole, buffers_.back()->data());
    return buffers_.back()->data();
  }
  Mat OnDevice(const OwnedMat& x) {
    return {reinterpret_cast<float*>(OnDevice(x.values.data(), x.values.size() * 4)), x.mat.rows,
            x.mat.cols};
  }
  std::vector<float> Read(Mat x) {
    std::vector<float> values(static_cast<size_t>(x.rows * x.cols));
    const absl::Status status = backend_->ReadBack(x, values.data());
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  static void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
    ASSERT_EQ(a.size(), b.size());
    int different = 0;
    for (size_t i = 0; i < a.size(); ++i) different += std::memcmp(&a[i], &b[i], 4) != 0;
    EXPECT_EQ(different, 0) << "of " << a.size();
  }

  // A slot's bytes in a tier on the host and, copied from there, in the device's.
  void FillSlot(const std::vector<std::byte>& bytes) {
    const SlotClass slots = {bytes.size(), 1};
    tier_ = *backend_->NewTier({&slots, 1});
    host_ = *backend_->NewHostTier({&slots, 1});
    std::memcpy(host_->slot(0).data(), bytes.data(), bytes.size());
    const std::atomic<bool> demanded{true};
    ASSERT_TRUE(tier_->Fill(0, host_->slot(0).first(bytes.size()), demanded).ok());
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tier> tier_, host_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// Widths with and without whole blocks of a warp's, and odd ones where a type allows.
TEST_P(HostExpertsTest, ProductsHaveTheDevicesBits) {
  ThreadPool pool(2);
  HostMatMul host(&pool, integers());
  for (const DType type : testing::kAllWeightTypes) {
    const int64_t block = GetDTypeInfo(type).block_elements;
    for (const int64_t cols :
         {block == 1 ? int64_t{37} : block, int64_t{768}, block + 512 / block * block}) {
      for (const int64_t rows : {1, 11}) {
        const OwnedWeight w(type, 19, cols, 3);
        const OwnedMat x(rows, cols, 4);
        Weight weight = w.weight;
        weight.data = OnDevice(w.bytes.data(), w.bytes.size());
        const Mat y = OnDevice(OwnedMat(rows, 19, 6));
        backend_->MatMul(weight, OnDevice(x), y);
        OwnedMat got(rows, 19);
        host.Run(w.weight, nullptr, x.mat, got.mat);
        SCOPED_TRACE(std::string(GetDTypeInfo(type).name) + " " + std::to_string(cols));
        ExpectSameBits(got.values, Read(y));
        buffers_.clear();
      }
    }
  }
}

TEST_P(HostExpertsTest, InstructionSetsAgree) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) GTEST_SKIP();
  for (const int64_t cols : {5, 256, 700}) {
    HostInput x;
    const OwnedMat values(17, cols, 1), weights(1, cols, 2);
    x.Set(values.mat);
    std::vector<float> w(static_cast<size_t>(x.blocks() * HostInput::kBlock));
    std::copy(weights.values.begin(), weights.values.end(), w.begin());
    const HostRow row = {w.data(), x.row(0), cols, 17, x.blocks() * HostInput::kBlock};
    std::vector<float> portable(17), avx2(17);
    SumHostRowPortable(row, portable.data());
    SumHostRowAvx2(row, avx2.data());
    ExpectSameBits(portable, avx2);
  }
}

// Whole experts: a step's rows on the device, on the host, and shared.
TEST_P(HostExpertsTest, ExpertsHaveTheDevicesBits) {
  constexpr int64_t kDim = 256, kFfn = 512, kRows = 13;
  const OwnedMat x(kRows, kDim, 9);
  std::vector<int32_t> rows(kRows), backwards(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::copy(rows.rbegin(), rows.rend(), backwards.begin());
  std::vector<float> scales(kRows);
  for (int i = 0; i < kRows; ++i) scales[i] = 0.25f + 0.1f * static_cast<float>(i);
  int kind = 0;
  for (const DType type : testing::kAllWeightTypes) {
    const bool biased = kind % 2 == 1;
    ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, type, type, type, biased);
    layout.activation = {static_cast<Activation>(kind++ % 3), 7.0f};
    std::vector<std::byte> bytes = OwnedWeight(type, 2 * kFfn, kDim, 1).bytes;
    const std::vector<std::byte> down = OwnedWeight(type, kDim, kFfn, 2).bytes;
    bytes.insert(bytes.end(), down.begin(), down.end());
    if (biased) {
      const OwnedMat bias(1, 2 * kFfn + kDim, 3);
      const auto* from = reinterpret_cast<const std::byte*>(bias.values.data());
      bytes.insert(bytes.end(), from, from + bias.values.size() * 4);
    }
    ASSERT_EQ(bytes.size(), layout.bytes);
    FillSlot(bytes);
    const Mat on_device = OnDevice(x);
    const std::span<const int32_t> in(rows), out(backwards);
    const std::span<const float> scale(scales);
    std::vector<std::vector<float>> results;
    // Rows that the host computes: none, all, the last five.
    for (const size_t device_rows : {size_t{kRows}, size_t{0}, size_t{8}}) {
      const Mat result = OnDevice(OwnedMat(kRows, kDim, 11));
      double seconds = 0;
      const ExpertTask tasks[] = {
          {tier_->slot(0).data(), in.first(device_rows), out.first(device_rows),
           scale.first(device_rows)},
          {host_->slot(0).data(), in.subspan(device_rows), out.subspan(device_rows),
           scale.subspan(device_rows), true, &seconds}};
      const bool both = device_rows > 0 && device_rows < kRows;
      const std::span<const ExpertTask> all(tasks);
      backend_->ExpertFfn(layout,
                          both              ? all
                          : device_rows > 0 ? all.first(1)
                                            : all.last(1),
                          on_device, result);
      results.push_back(Read(result));
      EXPECT_EQ(seconds > 0, device_rows < kRows);
    }
    SCOPED_TRACE(std::string(GetDTypeInfo(type).name));
    ExpectSameBits(results[0], results[1]);
    ExpectSameBits(results[0], results[2]);
    buffers_.clear();
  }
}

TEST_P(HostExpertsTest, AFailedCopyOfActivationsFailsTheStep) {
  const ExpertLayout layout = ExpertLayout::Packed(32, 32, DType::kF32, DType::kF32, DType::kF32);
  FillSlot(OwnedWeight(DType::kF32, 96, 32, 1).bytes);
  const Mat x = OnDevice(OwnedMat(2, 32, 2)), out = OnDevice(OwnedMat(2, 32, 3));
  const std::vector<int32_t> rows = {0, 1};
  const ExpertTask task = {host_->slot(0).data(), rows, rows, {}, true};
  for (const int nth : {1, 2}) {  // down, and the rows' numbers
    cuda_emulation::SetFaults({.copy = nth});
    backend_->ExpertFfn(layout, {&task, 1}, x, out);
    cuda_emulation::SetFaults({});
    std::vector<float> values(64);
    EXPECT_FALSE(backend_->ReadBack(out, values.data()).ok()) << nth;
  }
  cuda_emulation::SetFaults({.copy_delay_ms = 5});
  backend_->ExpertFfn(layout, {&task, 1}, x, out);
  backend_->ExpertFfn(layout, {&task, 1}, x, out);
  std::vector<float> first = Read(out);
  const auto before = cuda_emulation::CountsSoFar();
  backend_->ExpertFfn(layout, {&task, 1}, x, out);
  EXPECT_EQ(Read(out), first);
  EXPECT_EQ(cuda_emulation::CountsSoFar().allocations, before.allocations);
}

TEST(ExactMathTest, TheExponentialIsWithinALastPlace) {
  const auto places = [](float x) {
    const double exact = std::exp(double{x});
    const float got = ExactExp(x);
    const float nearest = static_cast<float>(exact);
    const double place =
        double{std::nextafter(nearest, std::numeric_limits<float>::infinity())} - nearest;
    return std::abs(got - exact) / place;
  };
  double worst = 0, tiny = 0;
  for (int i = -1'000'000; i <= 1'000'000; ++i) {
    const float x = static_cast<float>(i) * 88.7e-6f;
    (x < -87 ? tiny : worst) = std::max(x < -87 ? tiny : worst, places(x));
  }
  EXPECT_LT(worst, 1.0);
  for (int i = 0; i <= 100'000; ++i)
    tiny = std::max(tiny, places(-87 - static_cast<float>(i) * 1.6e-4f));
  EXPECT_LT(tiny, 2.0);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ExactExp(0), 1.0f);
  EXPECT_EQ(ExactExp(kInfinity), kInfinity);
  EXPECT_EQ(ExactExp(89.5f), kInfinity);
  EXPECT_EQ(ExactExp(-kInfinity), 0.0f);
  EXPECT_EQ(ExactExp(-200), 0.0f);
  EXPECT_TRUE(std::isnan(ExactExp(std::nanf(""))));
}

INSTANTIATE_TEST_SUITE_P(Kernels, HostExpertsTest, ::testing::Values("", "f32"),
                         [](const auto& info) { return *info.param == 0 ? "Integers" : "F32"; });

}  // namespace
}  // namespace hostler
