// Runs of kernels, queued one by one and as graphs.
#include "engine/compute/cuda/launch.h"

#include <cmath>
#include <vector>

#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/emulation/emulation.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using cuda_emulation::CountsSoFar;

// The flag is followed by padding.
struct Addition {
  float* to;
  bool twice;
  float value;
};
__global__ void AddKernel(Addition a, const float* more) {
  a.to[0] += a.value * (a.twice ? 2.0f : 1.0f) + (more == nullptr ? 0.0f : more[0]);
}

class LauncherTest : public ::testing::Test {
 protected:
  LauncherTest() {
    launcher_.stream = stream_.get();
    launcher_.Gather();
    cudaMemsetAsync(device_.get(), 0, 256, launcher_.stream);
  }
  ~LauncherTest() override {
    cudaStreamSynchronize(launcher_.stream);
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  float* sum() { return reinterpret_cast<float*>(device_.get()); }
  void Add(float value, const float* more = nullptr) {
    Addition addition;
    std::memset(static_cast<void*>(&addition), garbage_++, sizeof addition);
    addition.to = sum();
    addition.twice = false;
    addition.value = value;
    launcher_.Run({.grid = dim3(1), .block = dim3(1), .independent = true},
                  {{{more, more == nullptr ? 0 : sizeof(float)}}, {{sum(), sizeof(float)}}},
                  &AddKernel, addition, more);
  }
  // Three kernels.
  void RunOf(float value) {
    for (int i = 0; i < 3; ++i) Add(value);
    launcher_.Flush();
  }
  float Sum() {
    launcher_.Flush();
    cudaMemcpyAsync(pinned_.get(), device_.get(), sizeof(float), cudaMemcpyDeviceToHost,
                    launcher_.stream);
    launcher_.Synchronize();
    return *reinterpret_cast<float*>(pinned_.get());
  }

  StreamPtr stream_ = *NewStream(0);
  DevicePtr device_ = *NewDeviceMemory(256);
  PinnedPtr pinned_ = *NewPinnedMemory(256);
  Launcher launcher_;
  int garbage_ = 0;
};

TEST_F(LauncherTest, ARunThatComesAgainIsAGraph) {
  const auto before = CountsSoFar();
  for (int i = 0; i < 5; ++i) RunOf(1);
  EXPECT_EQ(Sum(), 15);
  EXPECT_EQ(CountsSoFar().launches, before.launches + 3);
  EXPECT_EQ(CountsSoFar().graph_launches, before.graph_launches + 4);
  EXPECT_EQ(CountsSoFar().captures, before.captures + 1);
  EXPECT_EQ(launcher_.graph_counts().plain, 1u);
  EXPECT_EQ(launcher_.graph_counts().replayed, 4u);
  EXPECT_EQ(launcher_.graph_counts().captured, 1u);
}

TEST_F(LauncherTest, AnyOtherParameterMakesItAnotherRun) {
  for (int i = 0; i < 2; ++i) RunOf(1);
  RunOf(std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(launcher_.graph_counts().replayed, 1u);
  Add(1);
  Add(1);
  Add(1);
  Add(1);  // longer
  launcher_.Flush();
  EXPECT_EQ(launcher_.graph_counts().replayed, 1u);
}

TEST_F(LauncherTest, NothingIsQueuedUntilItIsFlushed) {
  const auto before = CountsSoFar();
  Add(1);
  EXPECT_EQ(CountsSoFar().launches, before.launches);
  EXPECT_EQ(Sum(), 1);
}

TEST_F(LauncherTest, WhatIsUploadedIsThereForTheRunInOneCopy) {
  const DevicePtr device = *NewDeviceMemory(1024);
  const PinnedPtr pinned = *NewPinnedMemory(1024);
  auto* values = reinterpret_cast<float*>(pinned.get());
  for (int step = 1; step <= 4; ++step) {
    const auto before = CountsSoFar();
    for (int i = 0; i < 3; ++i) {
      values[i * 64] = static_cast<float>(step);
      launcher_.Upload(device.get() + i * 256, pinned.get() + i * 256, sizeof(float));
      Add(0, reinterpret_cast<float*>(device.get() + i * 256));
    }
    EXPECT_EQ(Sum(), 3 * step * (step + 1) / 2);
    EXPECT_EQ(CountsSoFar().copies, before.copies + 2);
  }
  EXPECT_EQ(launcher_.graph_counts().replayed, 3u);
}

TEST_F(LauncherTest, ARunThatCannotBeCapturedIsQueuedPlainlyForGood) {
  RunOf(1);
  cuda_emulation::SetFaults({.capture = 1});
  for (int i = 0; i < 3; ++i) RunOf(1);
  EXPECT_EQ(Sum(), 12);
  EXPECT_EQ(launcher_.graph_counts().failed, 1u);
  EXPECT_EQ(launcher_.graph_counts().replayed, 0u);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  for (int i = 0; i < 2; ++i) RunOf(2);
  EXPECT_EQ(launcher_.graph_counts().replayed, 1u);
}

TEST_F(LauncherTest, AGraphThatCannotBeLaunchedFailsTheStep) {
  for (int i = 0; i < 2; ++i) RunOf(1);
  cuda_emulation::SetFaults({.launch = 1});
  RunOf(1);
  RunOf(1);  // not done either
  EXPECT_EQ(launcher_.TakeError(), cudaErrorLaunchOutOfResources);
  EXPECT_EQ(Sum(), 6);
}

TEST_F(LauncherTest, GraphsAreKeptUntilOthersHaveBeenInUseForLong) {
  constexpr int kMost = 1024, kIdle = 4096;
  for (int i = 0; i < 2 * kMost; ++i) RunOf(static_cast<float>(i / 2));
  ASSERT_EQ(launcher_.graph_counts().captured, uint64_t{kMost});
  for (int i = 0; i < 3; ++i) RunOf(-1);
  EXPECT_EQ(launcher_.graph_counts().captured, uint64_t{kMost});
  for (int i = 0; i < kIdle; ++i) RunOf(static_cast<float>(kMost - 1));
  for (int i = 0; i < 2; ++i) RunOf(-1);
  EXPECT_EQ(launcher_.graph_counts().captured, uint64_t{kMost + 1});
}

}  // namespace
}  // namespace hostler
