// What operations are given on the host, on the device, and there again after an error.
#include "engine/compute/cuda/parameters.h"

#include <algorithm>
#include <string>

#include "engine/compute/cuda/emulation/emulation.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

class ParametersTest : public ::testing::Test {
 protected:
  ParametersTest() {
    launcher_.stream = stream_.get();
    launcher_.Gather();
  }
  ~ParametersTest() override {
    cudaStreamSynchronize(launcher_.stream);
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  std::vector<int32_t> OnDevice(const int32_t* values, size_t count) {
    std::vector<int32_t> result(count);
    launcher_.Flush();
    cudaMemcpyAsync(pinned_.get(), values, count * sizeof(int32_t), cudaMemcpyDeviceToHost,
                    launcher_.stream);
    launcher_.Synchronize();
    std::memcpy(result.data(), pinned_.get(), count * sizeof(int32_t));
    return result;
  }

  StreamPtr stream_ = *NewStream(0);
  PinnedPtr pinned_ = *NewPinnedMemory(256);
  Launcher launcher_;
  Parameters parameters_{&launcher_};
};

TEST_F(ParametersTest, ABatchWhoseCopyFailedIsSentAgain) {
  const std::vector<int32_t> blocks = {7, 3};
  StepBatch batch;
  batch.positions = {5, 6};
  batch.sequences = {{.rows = 2, .first_position = 5, .prompt_tokens = 9, .blocks = blocks}};
  // Of another step, so that what lies there is wrong.
  const std::vector<int32_t> other = {1, 2};
  StepBatch before = batch;
  before.positions = {0, 1};
  before.sequences[0].blocks = other;
  EXPECT_EQ(OnDevice(parameters_.Batch(before).positions, 2), before.positions);

  cuda_emulation::SetFaults({.copy = 1});
  (void)parameters_.Batch(batch);
  launcher_.Flush();
  EXPECT_NE(launcher_.TakeError(), cudaSuccess);
  cuda_emulation::SetFaults({});

  const DeviceBatch sent = parameters_.Batch(batch);
  EXPECT_EQ(OnDevice(sent.positions, 2), batch.positions);
  EXPECT_EQ(OnDevice(sent.blocks, 2), blocks);
}

TEST_F(ParametersTest, ABatchThatIsThereIsNotSentAgain) {
  StepBatch batch;
  batch.positions = {5};
  batch.sequences = {{.rows = 1, .first_position = 5, .prompt_tokens = 9}};
  EXPECT_EQ(OnDevice(parameters_.Batch(batch).positions, 1), batch.positions);
  const auto before = cuda_emulation::CountsSoFar();
  (void)parameters_.Batch(batch);
  launcher_.Flush();
  EXPECT_EQ(cuda_emulation::CountsSoFar().copies, before.copies);
}

TEST_F(ParametersTest, WhatIsKeptIsThereAfterAFailedCopy) {
  const std::vector<float> values = {1, 2, 3};
  cuda_emulation::SetFaults({.copy = 1});
  EXPECT_EQ(parameters_.Keep(values), nullptr);
  EXPECT_NE(launcher_.TakeError(), cudaSuccess);
  cuda_emulation::SetFaults({});
  const float* kept = parameters_.Keep(values);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(parameters_.Keep(values), kept);
  const std::vector<int32_t> bits = OnDevice(reinterpret_cast<const int32_t*>(kept), 3);
  EXPECT_EQ(std::memcmp(bits.data(), values.data(), 3 * sizeof(float)), 0);
}

}  // namespace
}  // namespace hostler
