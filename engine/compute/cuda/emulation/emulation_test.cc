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
#include "engine/compute/cuda/mma.cuh"
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

// d = a · b + c of bytes, fragments filled as the PTX manual's formulas have it for element
// i of a, b and c.
template <int k>
__global__ void Multiply(const int8_t* a, const int8_t* b, const int* c, int* d) {
  const int group = static_cast<int>(threadIdx.x) >> 2,
            in_group = static_cast<int>(threadIdx.x) % 4;
  uint32_t a_words[4] = {}, b_words[2] = {};
  int c_words[4], d_words[4];
  for (int i = 0; i < k / 2; ++i) {
    // k 16 has elements 0-3 in row `group` and 4-7 in the row 8 further.
    const bool first = k == 16 ? i < 4 : i < 4 || (i >= 8 && i < 12);
    const int row = first ? group : group + 8;
    const int column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
    a_words[i / 4] |= uint32_t{static_cast<uint8_t>(a[row * k + column])} << 8 * (i % 4);
  }
  for (int i = 0; i < k / 4; ++i) {
    const int row = in_group * 4 + (i & 3) + (i < 4 ? 0 : 16), column = group;
    b_words[i / 4] |= uint32_t{static_cast<uint8_t>(b[row * 8 + column])} << 8 * (i % 4);
  }
  for (int i = 0; i < 4; ++i) {
    c_words[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  }
  MmaS8<k>(d_words, a_words, b_words, c_words);
  MmaS8<k>(d_words, a_words, b_words, d_words);
  for (int i = 0; i < 4; ++i) {
    d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d_words[i];
  }
}

template <int k>
void ExpectProduct(Launcher& launcher, std::byte* device, std::byte* pinned) {
  auto* const a = reinterpret_cast<int8_t*>(pinned);
  int8_t* const b = a + 16 * k;
  auto* const c = reinterpret_cast<int*>(b + 8 * k);
  int* const d = c + 16 * 8;
  for (int i = 0; i < 24 * k; ++i) a[i] = static_cast<int8_t>(i * 37 % 251 - 128);
  for (int i = 0; i < 16 * 8; ++i) c[i] = i * 1000003;
  const size_t bytes = 24 * k + 2 * 16 * 8 * sizeof(int);
  ASSERT_EQ(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, launcher.stream),
            cudaSuccess);
  const auto at = [&](auto* p) {
    return reinterpret_cast<decltype(p)>(device + (reinterpret_cast<std::byte*>(p) - pinned));
  };
  launcher.Run({dim3(1), dim3(32)}, {{{device, bytes}}, {{device, bytes}}}, &Multiply<k>,
               const_cast<const int8_t*>(at(a)), const_cast<const int8_t*>(at(b)),
               const_cast<const int*>(at(c)), at(d));
  ASSERT_EQ(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, launcher.stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(launcher.stream), cudaSuccess);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = c[row * 8 + column];
      for (int i = 0; i < k; ++i) sum += 2 * a[row * k + i] * b[i * 8 + column];
      ASSERT_EQ(d[row * 8 + column], sum) << k << ": " << row << "," << column;
    }
  }
}

TEST_F(EmulationTest, AWarpMultipliesFragmentsThatLieAsPtxHasThem) {
  auto* const memory = reinterpret_cast<std::byte*>(pinned());
  ExpectProduct<16>(a_, device_.get(), memory);
  ExpectProduct<32>(a_, device_.get(), memory);
}

TEST_F(EmulationTest, IntrinsicsAreTheDevices) {
  EXPECT_EQ(__dp4a(0x7f80ff02, 0x7f800203, 5), 127 * 127 + 128 * 128 - 2 + 6 + 5);
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x7042), 0x77004422u);
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0xf8ca), 0x77004422u);
  EXPECT_EQ(__funnelshift_r(0x44332211, 0x88776655, 8), 0x55443322u);
  EXPECT_EQ(__funnelshift_r(0x44332211, 0x88776655, 0), 0x44332211u);
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rn(-3.5f), -4);
  EXPECT_EQ(__float2int_rn(3e9f), 2147483647);
  EXPECT_EQ(__float2int_rn(NAN), 0);
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
