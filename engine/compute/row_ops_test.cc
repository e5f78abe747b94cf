#include <cmath>
#include <cstring>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

constexpr int64_t kWidths[] = {1, 15, 16, 17, 64, 130};

class RowOpsTest : public testing::EveryIsa {};

TEST_P(RowOpsTest, EmbedsRowsOfEveryWeightType) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const int64_t cols = type == DType::kQ8_0 ? 96 : 77;
    const OwnedWeight table(type, 11, cols, 1);
    const std::vector<int32_t> ids = {10, 0, 3, 3};
    OwnedMat out(4, cols);
    one_->Embed(table.weight, ids, out.mat);
    for (int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(std::memcmp(out.mat.row(i), &table.values[ids[i] * cols], cols * 4), 0)
          << GetDTypeInfo(type).name;
    }
  }
}

TEST_P(RowOpsTest, NormalisesByTheRootMeanSquare) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t cols : kWidths) {
      const OwnedWeight gain(type, 1, cols, 1);
      OwnedMat x(7, cols, 2);
      OwnedMat out(7, cols);
      one_->RmsNorm(x.mat, gain.weight, 1e-5f, out.mat);
      for (int64_t r = 0; r < 7; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) sum += double{x.mat.row(r)[c]} * x.mat.row(r)[c];
        const double scale = 1 / std::sqrt(sum / cols + 1e-5);
        for (int64_t c = 0; c < cols; ++c) {
          const double expected = x.mat.row(r)[c] * scale * gain.values[c];
          ASSERT_NEAR(out.mat.row(r)[c], expected, 1e-6 * std::fabs(expected) + 1e-9);
        }
      }
      one_->RmsNorm(x.mat, gain.weight, 1e-5f, x.mat);
      EXPECT_EQ(x.values, out.values) << "in place";
    }
  }
}

TEST_P(RowOpsTest, SiluMulFollowsItsDefinitionFarOut) {
  for (int64_t cols : kWidths) {
    OwnedMat gate(3, cols, 3);
    const OwnedMat up(3, cols, 4);
    gate.values[0] = -200;
    gate.values[1] = 200;
    gate.values[2] = 0;
    OwnedMat out(3, cols);
    one_->Activate({}, gate.mat, up.mat, out.mat);
    for (size_t i = 0; i < out.values.size(); ++i) {
      const double expected = testing::Silu(gate.values[i]) * up.values[i];
      ASSERT_NEAR(out.values[i], expected, 1e-6 * std::fabs(expected) + 1e-30) << i;
    }
    one_->Activate({}, gate.mat, up.mat, gate.mat);
    EXPECT_EQ(gate.values, out.values) << "in place";
  }
}

TEST_P(RowOpsTest, AddsInPlace) {
  for (int64_t cols : kWidths) {
    const OwnedMat x(4, cols, 5);
    OwnedMat y(4, cols, 6);
    const std::vector<float> before = y.values;
    one_->Add(x.mat, y.mat);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(y.values[i], before[i] + x.values[i]);
  }
}

TEST_P(RowOpsTest, RopeTurnsPairsByTheirAngle) {
  for (bool interleaved : {false, true}) {
    const RopeSpec rope = {
        .inv_freq = {1.0f, 0.3f, 0.01f}, .interleaved = interleaved, .scale = 1.2f};
    constexpr int kHeadDim = 10;  // the last four are not rotated
    const std::vector<int32_t> positions = {0, 1, 77, 4095};
    OwnedMat x(4, 3 * kHeadDim, 7);
    const OwnedMat before = x;
    StepBatch batch;
    batch.positions = positions;
    one_->Rope(rope, batch, kHeadDim, x.mat);
    for (int r = 0; r < 4; ++r) {
      for (int h = 0; h < 3; ++h) {
        const float* in = before.mat.row(r) + h * kHeadDim;
        const float* out = x.mat.row(r) + h * kHeadDim;
        for (int i = 0; i < 3; ++i) {
          const int a = interleaved ? 2 * i : i;
          const int b = interleaved ? 2 * i + 1 : i + 3;
          const double angle = static_cast<float>(positions[r]) * rope.inv_freq[i];
          EXPECT_NEAR(out[a], 1.2 * (in[a] * std::cos(angle) - in[b] * std::sin(angle)), 2e-6);
          EXPECT_NEAR(out[b], 1.2 * (in[b] * std::cos(angle) + in[a] * std::sin(angle)), 2e-6);
        }
        for (int i = 6; i < kHeadDim; ++i) EXPECT_EQ(out[i], in[i]);
      }
    }
  }
}

TEST_P(RowOpsTest, LargeWorkOnTwoThreadsGivesTheSameBits) {
  const OwnedWeight gain(DType::kBF16, 1, 1000, 1);
  const OwnedMat x(300, 1000, 2);
  OwnedMat a(300, 1000), b(300, 1000);
  one_->RmsNorm(x.mat, gain.weight, 1e-6f, a.mat);
  two_->RmsNorm(x.mat, gain.weight, 1e-6f, b.mat);
  EXPECT_EQ(a.values, b.values);
  one_->Activate({}, a.mat, x.mat, a.mat);
  two_->Activate({}, b.mat, x.mat, b.mat);
  EXPECT_EQ(a.values, b.values);
  ExpertSelection sa, sb;
  one_->SelectExperts({.top_k = 8}, x.mat, &sa);
  two_->SelectExperts({.top_k = 8}, x.mat, &sb);
  EXPECT_EQ(sa.experts, sb.experts);
  EXPECT_EQ(sa.weights, sb.weights);
}

TEST_P(RowOpsTest, GathersAndReadsBackRows) {
  const OwnedMat x(6, 5, 8);
  const std::vector<int32_t> rows = {5, 0, 5};
  OwnedMat out(3, 5);
  one_->GatherRows(x.mat, rows, out.mat);
  std::vector<float> host(15);
  one_->ReadBack(out.mat, host.data());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::vector<float>(host.begin() + 5 * i, host.begin() + 5 * i + 5), x.row(rows[i]));
  }
}

HOSTLER_FOR_EVERY_ISA(RowOpsTest);

TEST(CpuBackendTest, MemoryIsAlignedAndZeroed) {
  const std::unique_ptr<Backend> backend = testing::NewBackend(1, "");
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20}) {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ((*buffer)->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    for (size_t i = 0; i < bytes; i += 997) EXPECT_EQ((*buffer)->data()[i], std::byte{0});
    if (bytes > 0) (*buffer)->data()[bytes - 1] = std::byte{1};
  }
}

TEST(CpuBackendTest, TooMuchMemoryIsAnError) {
  const std::unique_ptr<Backend> backend = testing::NewBackend(1, "");
  for (size_t bytes : {SIZE_MAX, SIZE_MAX / 2, size_t{1} << 60}) {
    EXPECT_EQ(backend->Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(CpuBackendTest, RefusesWhatItCannotRun) {
  EXPECT_EQ(NewCpuBackend(1, "mmx").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NewCpuBackend(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(testing::NewBackend(1, "portable")->name(), "cpu-portable");
}

}  // namespace
}  // namespace hostler
