// The emulated device itself: order, waiting, what it reports.
#include "engine/compute/cuda/emulation/emulation.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/launch.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using cuda_emulation::TakeRaces;

class EmulationTest : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = 4096;
  static constexpr int kFloats = kBytes / sizeof(float);

  EmulationTest() {
    a_.stream = stream_a_.get();
    b_.stream = stream_b_.get();
  }
  ~EmulationTest() override {
    cudaStreamSynchronize(a_.stream);
    cudaStreamSynchronize(b_.stream);
    cuda_emulation::Reset();
    TakeRaces();
  }

  float* device() { return reinterpret_cast<float*>(device_.get()); }
  float* pinned() { return reinterpret_cast<float*>(pinned_.get()); }
  cudaError_t CopyIn(Launcher& launcher) {
    return cudaMemcpyAsync(device(), pinned(), kBytes, cudaMemcpyHostToDevice, launcher.stream);
  }
  cudaError_t CopyOut(Launcher& launcher) {
    return cudaMemcpyAsync(pinned(), device(), kBytes, cudaMemcpyDeviceToHost, launcher.stream);
  }

  StreamPtr stream_a_ = *NewStream(0), stream_b_ = *NewStream(1);
  EventPtr event_ = *NewEvent();
  DevicePtr device_ = *NewDeviceMemory(kBytes);
  PinnedPtr pinned_ = *NewPinnedMemory(kBytes);
  Launcher a_, b_;
};

__global__ void AddOne(float* values, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] += 1;
}

void RunAddOne(Launcher& launcher, float* values, int count) {
  launcher.Run({.grid = dim3(count / 64 + 1), .block = dim3(64), .independent = true},
               {{}, {{values, count * sizeof(float)}}}, &AddOne, values, count);
}

TEST_F(EmulationTest, AStreamDoesWhatIsQueuedInOrder) {
  std::iota(pinned(), pinned() + kFloats, 0.0f);
  ASSERT_EQ(CopyIn(a_), cudaSuccess);
  for (int i = 0; i < 3; ++i) RunAddOne(a_, device(), kFloats);
  ASSERT_EQ(CopyOut(a_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  for (int i = 0; i < kFloats; ++i) ASSERT_EQ(pinned()[i], i + 3);
  EXPECT_TRUE(TakeRaces().empty());
}

// Each block turns its part round through shared memory, then every warp sums.
__global__ void TurnAndSum(float* values, float* sums) {
  float* shared = SharedFloats();
  const int count = static_cast<int>(blockDim.x), i = static_cast<int>(threadIdx.x);
  float* part = values + blockIdx.x * count;
  shared[i] = part[i];
  __syncthreads();
  part[i] = shared[count - 1 - i];
  const float sum = WarpSum(part[i]);
  __shared__ float warps[8];
  const float all = BlockSum(part[i], warps);
  if (i % kWarpLanes == 0) sums[blockIdx.x * (count / kWarpLanes) + i / kWarpLanes] = sum + all;
}

TEST_F(EmulationTest, ThreadsOfABlockWaitForOneAnother) {
  constexpr int kBlocks = 4, kThreads = 256;
  const DevicePtr sums = *NewDeviceMemory(kBlocks * 8 * sizeof(float));
  std::iota(pinned(), pinned() + kFloats, 0.0f);
  ASSERT_EQ(CopyIn(a_), cudaSuccess);
  a_.Run({dim3(kBlocks), dim3(kThreads), kThreads * sizeof(float)}, {}, &TurnAndSum, device(),
         reinterpret_cast<float*>(sums.get()));
  ASSERT_EQ(CopyOut(a_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  for (int i = 0; i < kBlocks * kThreads; ++i) {
    ASSERT_EQ(pinned()[i], i / kThreads * kThreads + kThreads - 1 - i % kThreads);
  }
  ASSERT_EQ(cudaMemcpyAsync(pinned(), sums.get(), kBlocks * 8 * sizeof(float),
                            cudaMemcpyDeviceToHost, a_.stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  for (int w = 0; w < kBlocks * 8; ++w) {
    const int block = w / 8, first = block * kThreads + kThreads - 1 - w % 8 * 32;
    const float warp = 32.0f * first - 31 * 16;
    const float all = kThreads * (block * kThreads + (kThreads - 1) / 2.0f);
    EXPECT_EQ(pinned()[w], warp + all) << w;
  }
}

TEST_F(EmulationTest, CopiesDoNotMakeTheHostWait) {
  cuda_emulation::SetFaults({.copy_delay_ms = 50});
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(CopyIn(a_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_.get(), a_.stream), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_.get()), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(event_.get()), cudaSuccess);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(50));
  EXPECT_EQ(cudaEventQuery(event_.get()), cudaSuccess);
}

TEST_F(EmulationTest, AStreamWaitsForAnothersEvent) {
  cuda_emulation::SetFaults({.copy_delay_ms = 20});
  std::fill_n(pinned(), kFloats, 7.0f);
  ASSERT_EQ(CopyIn(b_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_.get(), b_.stream), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(a_.stream, event_.get(), 0), cudaSuccess);
  RunAddOne(a_, device(), kFloats);
  ASSERT_EQ(CopyOut(a_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  EXPECT_EQ(pinned()[kFloats - 1], 8);
  EXPECT_TRUE(TakeRaces().empty());
}

// The bug that the cache must never have: a slot is computed with while it is copied.
TEST_F(EmulationTest, ReportsAKernelThatDoesNotWaitForACopy) {
  ASSERT_EQ(CopyIn(b_), cudaSuccess);
  RunAddOne(a_, device(), kFloats);
  EXPECT_EQ(TakeRaces().size(), 1u);
}

// Also when the copy happened to end before: nothing said that it would.
TEST_F(EmulationTest, ReportsARaceThatDidNoHarm) {
  RunAddOne(a_, device(), kFloats);
  ASSERT_EQ(cudaEventRecord(event_.get(), a_.stream), cudaSuccess);
  while (cudaEventQuery(event_.get()) != cudaSuccess) {
  }
  EXPECT_TRUE(TakeRaces().empty());
  // The host has seen the first kernel's end, so this is in order...
  ASSERT_EQ(CopyIn(b_), cudaSuccess);
  EXPECT_TRUE(TakeRaces().empty());
  // ...and this is not, however long it takes to come.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  RunAddOne(a_, device(), kFloats);
  EXPECT_EQ(TakeRaces().size(), 1u);
}

TEST_F(EmulationTest, ReportsACopyIntoWhatIsStillRead) {
  a_.Run({.grid = dim3(1), .block = dim3(32), .independent = true},
         {{{device(), 64}}, {{device() + 16, 64}}}, &AddOne, device() + 16, 16);
  ASSERT_EQ(CopyIn(b_), cudaSuccess);
  const auto races = TakeRaces();
  EXPECT_EQ(races.size(), 2u);  // what it reads, what it writes
  EXPECT_TRUE(TakeRaces().empty());
}

TEST_F(EmulationTest, ReadersDoNotDisturbOneAnother) {
  const Uses reads = {{{device(), kBytes}}, {}};
  const Shape shape = {.grid = dim3(1), .block = dim3(1), .independent = true};
  a_.Run(shape, reads, &AddOne, device(), 0);
  b_.Run(shape, reads, &AddOne, device(), 0);
  EXPECT_TRUE(TakeRaces().empty());
}

TEST_F(EmulationTest, ReportsPinnedMemoryFilledWhileItIsCopied) {
  ASSERT_EQ(CopyIn(a_), cudaSuccess);
  CheckHostWrite(pinned(), 4);
  EXPECT_EQ(TakeRaces().size(), 1u);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  CheckHostWrite(pinned(), 4);
  EXPECT_TRUE(TakeRaces().empty());
}

TEST_F(EmulationTest, FailsWhenTold) {
  cuda_emulation::SetFaults({.allocation = 2, .launch = 1, .copy = 1});
  EXPECT_TRUE(NewDeviceMemory(16).ok());
  EXPECT_EQ(NewPinnedMemory(16).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(NewPinnedMemory(16).ok());
  EXPECT_NE(CopyIn(a_), cudaSuccess);
  EXPECT_EQ(CopyIn(a_), cudaSuccess);
  RunAddOne(a_, device(), kFloats);
  EXPECT_EQ(a_.TakeError(), cudaErrorLaunchOutOfResources);
  RunAddOne(a_, device(), kFloats);
  EXPECT_TRUE(a_.ok());
}

TEST_F(EmulationTest, ABrokenCopyRuinsTheDeviceForGood) {
  cuda_emulation::SetFaults({.broken_copy = 1});
  EXPECT_EQ(CopyIn(a_), cudaSuccess);
  EXPECT_NE(cudaStreamSynchronize(a_.stream), cudaSuccess);
  RunAddOne(a_, device(), kFloats);
  EXPECT_FALSE(a_.ok());
  EXPECT_FALSE(NewDeviceMemory(16).ok());
  cuda_emulation::Reset();
  EXPECT_TRUE(NewDeviceMemory(16).ok());
}

TEST_F(EmulationTest, RefusesWhatADeviceWould) {
  std::vector<float> pageable(kFloats);
  EXPECT_NE(cudaMemcpyAsync(device(), pageable.data(), kBytes, cudaMemcpyHostToDevice, a_.stream),
            cudaSuccess);
  EXPECT_NE(cudaMemcpyAsync(device(), pinned(), kBytes + 1, cudaMemcpyHostToDevice, a_.stream),
            cudaSuccess);
  a_.Run({dim3(1), dim3(2048)}, {}, &AddOne, device(), 0);
  EXPECT_EQ(a_.TakeError(), cudaErrorInvalidConfiguration);
  EXPECT_FALSE(NewDeviceMemory(size_t{1} << 40).ok());
}

class GraphTest : public EmulationTest {
 protected:
  // What `queue` queues on a_.
  template <typename F>
  cudaError_t Capture(const F& queue) {
    Drop();
    cudaStreamBeginCapture(a_.stream, cudaStreamCaptureModeThreadLocal);
    queue();
    const cudaError_t error = cudaStreamEndCapture(a_.stream, &graph_);
    return error == cudaSuccess ? cudaGraphInstantiate(&executable_, graph_, 0) : error;
  }
  void Drop() {
    cudaGraphDestroy(std::exchange(graph_, nullptr));
    cudaGraphExecDestroy(std::exchange(executable_, nullptr));
  }
  ~GraphTest() override { Drop(); }

  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

TEST_F(GraphTest, WhatIsCapturedIsDoneWhenTheGraphIsLaunched) {
  std::fill_n(pinned(), kFloats, 1.0f);
  const cuda_emulation::Counts before = cuda_emulation::CountsSoFar();
  ASSERT_EQ(Capture([&] {
              CopyIn(a_);
              RunAddOne(a_, device(), kFloats);
              CopyOut(a_);
            }),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  EXPECT_EQ(pinned()[3], 1);
  EXPECT_EQ(cuda_emulation::CountsSoFar().launches, before.launches);
  EXPECT_EQ(cuda_emulation::CountsSoFar().copies, before.copies);
  for (int i = 0; i < 2; ++i) ASSERT_EQ(cudaGraphLaunch(executable_, a_.stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  EXPECT_EQ(pinned()[3], 3);
  EXPECT_EQ(cuda_emulation::CountsSoFar().graph_launches, before.graph_launches + 2);
  EXPECT_TRUE(TakeRaces().empty());
}

TEST_F(GraphTest, WaitingAndAllocatingSpoilACapture) {
  EXPECT_EQ(Capture([&] {
              EXPECT_EQ(cudaStreamSynchronize(a_.stream), cudaErrorStreamCaptureUnsupported);
            }),
            cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(Capture([&] { EXPECT_FALSE(NewDeviceMemory(16).ok()); }),
            cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(Capture([&] { EXPECT_FALSE(NewPinnedMemory(16).ok()); }),
            cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(Capture([&] {
              cudaEventRecord(event_.get(), a_.stream);
              EXPECT_EQ(cudaEventSynchronize(event_.get()), cudaErrorCapturedEvent);
            }),
            cudaSuccess);
  // Another thread may, as long as the capture is this one's alone.
  EXPECT_EQ(Capture([&] { std::thread([] { EXPECT_TRUE(NewDeviceMemory(16).ok()); }).join(); }),
            cudaSuccess);
}

TEST_F(GraphTest, ACaptureCannotWaitForWhatIsOutsideIt) {
  ASSERT_EQ(cudaEventRecord(event_.get(), b_.stream), cudaSuccess);
  EXPECT_EQ(Capture([&] {
              EXPECT_EQ(cudaStreamWaitEvent(a_.stream, event_.get(), 0),
                        cudaErrorStreamCaptureIsolation);
            }),
            cudaErrorStreamCaptureInvalidated);
}

TEST_F(GraphTest, ACaptureEndsOnceAndInItsThread) {
  EXPECT_EQ(cudaStreamEndCapture(a_.stream, &graph_), cudaErrorIllegalState);
  ASSERT_EQ(Capture([&] {
              EXPECT_EQ(cudaStreamBeginCapture(a_.stream, cudaStreamCaptureModeRelaxed),
                        cudaErrorIllegalState);
              std::thread([&] {
                EXPECT_EQ(cudaStreamEndCapture(a_.stream, &graph_),
                          cudaErrorStreamCaptureWrongThread);
              }).join();
            }),
            cudaSuccess);
}

TEST_F(GraphTest, ALaunchedGraphIsCheckedLikeWhatItHolds) {
  ASSERT_EQ(Capture([&] { RunAddOne(a_, device(), kFloats); }), cudaSuccess);
  ASSERT_EQ(CopyIn(b_), cudaSuccess);
  EXPECT_TRUE(TakeRaces().empty());  // nothing ran yet
  ASSERT_EQ(cudaGraphLaunch(executable_, a_.stream), cudaSuccess);
  EXPECT_EQ(TakeRaces().size(), 1u);
}

// The bug that graphs invite: parameters at fixed places are refreshed too early.
TEST_F(GraphTest, ReportsParametersRefreshedWhileTheLastLaunchMayReadThem) {
  ASSERT_EQ(Capture([&] { CopyIn(a_); }), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable_, a_.stream), cudaSuccess);
  CheckHostWrite(pinned(), 4);
  EXPECT_EQ(TakeRaces().size(), 1u);
  ASSERT_EQ(cudaStreamSynchronize(a_.stream), cudaSuccess);
  CheckHostWrite(pinned(), 4);
  EXPECT_TRUE(TakeRaces().empty());
}

using EmulationDeathTest = EmulationTest;

__global__ void WaitsAlone() {
  if (threadIdx.x == 0) __syncthreads();
  __syncwarp();
}

TEST_F(EmulationDeathTest, ThreadsThatWaitAtDifferentBarriersAreNoticed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const StreamPtr stream = *NewStream(0);
        Launcher launcher;
        launcher.stream = stream.get();
        launcher.Run({dim3(1), dim3(32)}, {}, &WaitsAlone);
        cudaStreamSynchronize(launcher.stream);
      },
      "different barriers");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr const char* kFault = "";  // a plain fault says nothing
#else
constexpr const char* kFault = "SEGV";
#endif

TEST_F(EmulationDeathTest, TheHostCannotTouchGuardedDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const DevicePtr memory = *NewDeviceMemory(64);
        cuda_emulation::GuardDeviceMemory(true);
        std::memset(memory.get(), 0, 1);
      },
      kFault);
}

TEST_F(EmulationDeathTest, AKernelCannotReachBeyondAnAllocation) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const StreamPtr stream = *NewStream(0);
        Launcher launcher;
        launcher.stream = stream.get();
        const DevicePtr memory = *NewDeviceMemory(256);
        RunAddOne(launcher, reinterpret_cast<float*>(memory.get()), 65);
        cudaStreamSynchronize(launcher.stream);
      },
      kFault);
}

}  // namespace
}  // namespace hostler
