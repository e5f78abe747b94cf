// What is the CUDA backend's own: failures, copies that take their time, memory. That
// it computes what the others do is shown by the tests of all backends.
#include "engine/compute/cuda/cuda_backend.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using cuda_emulation::CountsSoFar;
using testing::OwnedMat;
using testing::OwnedWeight;

class CudaBackendTest : public ::testing::Test {
 protected:
  CudaBackendTest() : backend_(*NewCudaBackend()) {}
  ~CudaBackendTest() override {
    backend_->ReadBack({}, nullptr).IgnoreError();
    buffers_.clear();
    backend_.reset();
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  std::byte* OnDevice(const std::byte* data, size_t bytes) {
    buffers_.push_back(*backend_->Allocate(bytes));
    const Weight whole = {DType::kF8E4M3, 1, static_cast<int64_t>(bytes), data};
    backend_->Convert(whole, 0, whole, buffers_.back()->data());
    return buffers_.back()->data();
  }
  Mat OnDevice(const OwnedMat& x) {
    const auto* data = reinterpret_cast<const std::byte*>(x.values.data());
    return {reinterpret_cast<float*>(OnDevice(data, x.values.size() * 4)), x.mat.rows, x.mat.cols};
  }
  Weight OnDevice(const OwnedWeight& w) {
    Weight weight = w.weight;
    weight.data = OnDevice(w.bytes.data(), w.bytes.size());
    return weight;
  }
  std::vector<float> Read(Mat x) {
    std::vector<float> values(static_cast<size_t>(x.rows * x.cols));
    const absl::Status status = backend_->ReadBack(x, values.data());
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

TEST_F(CudaBackendTest, AbsentDevicesAreNotFound) {
  EXPECT_EQ(NewCudaBackend(7).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CudaBackendTest, MemoryIsZerosOrResourceExhausted) {
  const auto buffer = backend_->Allocate(100);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ(Read({reinterpret_cast<float*>((*buffer)->data()), 1, 25}), std::vector<float>(25));
  EXPECT_EQ(backend_->Allocate(size_t{1} << 50).status().code(),
            absl::StatusCode::kResourceExhausted);
  cuda_emulation::SetFaults({.allocation = 1});
  EXPECT_EQ(backend_->Allocate(16).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(CudaBackendTest, AFailedLaunchShowsOnceWhenTheStepIsRead) {
  const Mat x = OnDevice(OwnedMat(2, 40, 3));
  const std::vector<float> before = Read(x);
  cuda_emulation::SetFaults({.launch = 1});
  backend_->Scale(2, x);
  backend_->Scale(3, x);  // not done either
  std::vector<float> values(80);
  EXPECT_EQ(backend_->ReadBack(x, values.data()).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Read(x), before);
  backend_->Scale(2, x);
  EXPECT_EQ(Read(x)[7], before[7] * 2);
}

TEST_F(CudaBackendTest, ARuinedDeviceFailsEveryStep) {
  const Mat x = OnDevice(OwnedMat(2, 40, 3));
  Read(x);
  cuda_emulation::SetFaults({.broken_copy = 1});
  std::vector<float> values(80);
  const std::vector<float> factors = {1, 2};
  backend_->ScaleRows(factors, x);  // copies them in
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(backend_->ReadBack(x, values.data()).ok());
    backend_->Scale(2, x);
  }
}

TEST_F(CudaBackendTest, WeightsOfSeveralPartsArriveWhole) {
  const OwnedMat big(3000, 513, 4);
  EXPECT_EQ(Read(OnDevice(big)), big.values);
}

// More than there is room for at a time, without a wait between.
TEST_F(CudaBackendTest, WhatOperationsAreGivenMayBeAnyAmount) {
  constexpr int kRows = 300000;
  const Mat x = OnDevice(OwnedMat(kRows, 1, 3));
  std::vector<float> expected = Read(x);
  for (const int rows : {1, kRows, 7, kRows, kRows, 100000, 100000, 200000, kRows}) {
    std::vector<float> factors(rows);
    for (int i = 0; i < rows; ++i) factors[i] = static_cast<float>(i % 5) - 2;
    backend_->ScaleRows(factors, x.first_rows(rows));
    for (int i = 0; i < rows; ++i) expected[i] *= factors[i];
  }
  EXPECT_EQ(Read(x), expected);
}

TEST_F(CudaBackendTest, TheSameStepAgainAllocatesNothingAndIsGraphs) {
  const Mat x = OnDevice(OwnedMat(3, 64, 5)), y = OnDevice(OwnedMat(3, 96, 6));
  const OwnedWeight w(DType::kQ4_0, 96, 64, 7);
  const Weight weight = OnDevice(w);
  RopeSpec rope = {.inv_freq = {1, 0.5f}};
  StepBatch batch;
  batch.sequences = {{.rows = 3}};
  batch.tokens = batch.positions = {0, 1, 2};
  ExpertSelection selection;
  const auto step = [&] {
    batch.positions[0] += 3;  // another step's batch
    backend_->MatMul(weight, x, y);
    backend_->Rope(rope, batch, 32, y);
    backend_->SelectExperts({.top_k = 4}, x, &selection);
    Read(y);
  };
  for (int i = 0; i < 3; ++i) step();
  const auto before = CountsSoFar();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(CountsSoFar().allocations, before.allocations);
  // Up to the gate, and what is read; a batch and nothing else is copied in.
  EXPECT_EQ(CountsSoFar().graph_launches, before.graph_launches + 3);
  EXPECT_EQ(CountsSoFar().launches, before.launches);
  EXPECT_EQ(CountsSoFar().waits, before.waits + 6);
  EXPECT_EQ(CountsSoFar().copies, before.copies + 9);
}

}  // namespace
}  // namespace hostler
