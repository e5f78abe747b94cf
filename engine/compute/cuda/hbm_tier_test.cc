// Experts in device memory: what computes with them sees what was filled in, whatever
// fails or takes its time.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "engine/compute/cuda/cuda_backend.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

class HbmTierTest : public ::testing::Test {
 protected:
  static constexpr int64_t kDim = 64, kFfn = 96, kRows = 4;
  static constexpr int kSlots = 3;

  HbmTierTest() : backend_(*NewCudaBackend()) {
    const SlotClass slots = {layout_.bytes, kSlots};
    tier_ = *backend_->NewTier({&slots, 1});
    const SlotClass passages = {layout_.bytes, 2 * kSlots};
    host_ = *backend_->NewHostTier({&passages, 1});
    if (!host_->Reserve(kSlots * SlotStride(layout_.bytes)).ok()) std::abort();
    memory_ = *backend_->Allocate(2 * kRows * kDim * sizeof(float));
    x_ = {reinterpret_cast<float*>(memory_->data()), kRows, kDim};
    out_ = {x_.row(kRows), kRows, kDim};
    const OwnedMat x(kRows, kDim, 1);
    const Weight values = {DType::kF32, kRows, kDim,
                           reinterpret_cast<const std::byte*>(x.values.data())};
    backend_->Convert(values, 0, values, memory_->data());
    std::iota(rows_.begin(), rows_.end(), 0);
  }
  ~HbmTierTest() override {
    backend_->ReadBack({}, nullptr).IgnoreError();
    tier_.reset();
    host_.reset();
    memory_.reset();
    backend_.reset();
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  // From a place of its own for each slot; what was there is overwritten when it returns.
  absl::Status Fill(int slot, uint32_t seed, bool demanded = true) {
    const std::span<std::byte> bytes = host_->slot(slot).first(layout_.bytes);
    CheckHostWrite(bytes.data(), bytes.size());
    std::ranges::copy(OwnedWeight(DType::kQ8_0, 3 * kFfn, kDim, seed).bytes, bytes.begin());
    const std::atomic<bool> wanted = demanded;
    const absl::Status status = tier_->Fill(slot, bytes, wanted);
    CheckHostWrite(bytes.data(), bytes.size());
    std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
    return status;
  }
  void Compute(int slot) {
    const ExpertTask task = {tier_->slot(slot).data(), rows_, rows_};
    backend_->ExpertFfn(layout_, {&task, 1}, x_, out_);
  }
  std::vector<float> Result() {
    std::vector<float> values(kRows * kDim);
    const absl::Status status = backend_->ReadBack(out_, values.data());
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  // What an expert gives.
  std::vector<float> Alone(uint32_t seed) {
    EXPECT_TRUE(Fill(0, seed).ok());
    Compute(0);
    return Result();
  }

  const ExpertLayout layout_ =
      ExpertLayout::Packed(kDim, kFfn, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0);
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tier> tier_, host_;
  std::unique_ptr<Buffer> memory_;
  Mat x_, out_;
  std::vector<int32_t> rows_ = std::vector<int32_t>(kRows);
};

TEST_F(HbmTierTest, ASlotPassesFromExpertToExpert) {
  const std::vector<float> five = Alone(5), six = Alone(6);
  EXPECT_NE(five, six);
  EXPECT_FALSE(tier_->on_host());
  EXPECT_EQ(tier_->slot(0).size(), SlotStride(layout_.bytes));
  const std::byte* before = tier_->slot(0).data();
  EXPECT_EQ(Alone(5), five);
  EXPECT_EQ(tier_->slot(0).data(), before);
}

TEST_F(HbmTierTest, MemoryIsTakenByTheFirstFillUntilDiscarded) {
  size_t at_first = 0, filled = 0, after = 0, total = 0;
  cudaMemGetInfo(&at_first, &total);
  ASSERT_TRUE(Fill(1, 5).ok());
  cudaMemGetInfo(&filled, &total);
  EXPECT_EQ(at_first - filled, SlotStride(layout_.bytes));
  tier_->Discard(1);
  cudaMemGetInfo(&after, &total);
  EXPECT_EQ(after, at_first);
  EXPECT_TRUE(tier_->slot(1).empty());
}

TEST_F(HbmTierTest, ReservedSlotsOfOneSizeTakeNoMemoryLater) {
  const SlotClass slots = {layout_.bytes, kSlots};
  const size_t stride = SlotStride(layout_.bytes);
  for (const bool host : {false, true}) {
    const std::unique_ptr<Tier> tier =
        host ? *backend_->NewHostTier({&slots, 1}) : *backend_->NewTier({&slots, 1});
    ASSERT_TRUE(tier->Reserve(2 * stride + 100).ok());
    const auto before = cuda_emulation::CountsSoFar();
    EXPECT_EQ(tier->slot(1).size(), stride);
    EXPECT_EQ(tier->slot(0).data() + stride, tier->slot(1).data());
    tier->Discard(1);
    EXPECT_EQ(tier->slot(1).size(), stride);
    EXPECT_EQ(cuda_emulation::CountsSoFar().allocations, before.allocations);
    EXPECT_EQ(tier->slot(2).size(), host ? stride : 0) << "beyond what was reserved";
  }
  cuda_emulation::SetFaults({.allocation = 1});
  const std::unique_ptr<Tier> tier = *backend_->NewTier({&slots, 1});
  EXPECT_EQ(tier->Reserve(stride).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(HbmTierTest, SlotsOfTheHostThatCannotBeHadAreEmpty) {
  cuda_emulation::SetFaults({.allocation = 1});
  EXPECT_TRUE(host_->slot(kSlots).empty());
  EXPECT_FALSE(host_->slot(kSlots).empty());
}

TEST_F(HbmTierTest, TheSameFillsAgainAllocateNothing) {
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Fill(i, 5, /*demanded=*/i == 0).ok());
  const auto before = cuda_emulation::CountsSoFar();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Fill(i, 6, /*demanded=*/i == 0).ok());
  EXPECT_EQ(cuda_emulation::CountsSoFar().allocations, before.allocations);
}

// Slots of three pieces and some.
class LargeSlotTest : public HbmTierTest {
 protected:
  static constexpr size_t kBytes = (size_t{3} << 20) + 1000;

  LargeSlotTest() {
    const SlotClass slots = {kBytes, kSlots};
    large_ = *backend_->NewTier({&slots, 1});
    large_host_ = *backend_->NewHostTier({&slots, 1});
    if (!large_->Reserve(kSlots * SlotStride(kBytes)).ok()) std::abort();
  }
  ~LargeSlotTest() override {
    large_.reset();
    large_host_.reset();
  }
  std::thread Start(int slot, const std::atomic<bool>& demanded) {
    return std::thread([this, slot, &demanded] {
      const std::span<std::byte> bytes = large_host_->slot(slot).first(kBytes);
      EXPECT_TRUE(large_->Fill(slot, bytes, demanded).ok());
    });
  }
  static void WaitForCopies(uint64_t count) {
    while (cuda_emulation::CountsSoFar().copies < count) std::this_thread::yield();
  }
  static uint64_t copies() { return cuda_emulation::CountsSoFar().copies; }

  std::unique_ptr<Tier> large_, large_host_;
};

TEST_F(LargeSlotTest, WhatNobodyWaitsForGoesInPiecesAndLetsOthersPass) {
  const std::atomic<bool> no{false}, yes{true};
  cuda_emulation::SetFaults({.copy_delay_ms = 20});
  const uint64_t before = copies();
  std::thread idle = Start(0, no);
  WaitForCopies(before + 1);
  std::thread wanted = Start(1, yes);  // begins while the first piece is on its way
  wanted.join();
  EXPECT_LE(copies(), before + 3) << "the rest of the pieces waits for it";
  idle.join();
  EXPECT_EQ(copies(), before + 5);
}

TEST_F(LargeSlotTest, WhatSomeoneComesToWaitForGoesOnAtOnce) {
  std::atomic<bool> demanded{false};
  cuda_emulation::SetFaults({.copy_delay_ms = 10});
  const uint64_t before = copies();
  std::thread fill = Start(0, demanded);
  WaitForCopies(before + 1);
  demanded = true;
  fill.join();
  EXPECT_EQ(copies(), before + 2) << "the rest in one";
}

// A slot that was released is filled while the kernels that use it are still queued.
TEST_F(HbmTierTest, AFillWaitsForWhatComputesWithTheSlot) {
  const std::vector<float> five = Alone(5), six = Alone(6);
  ASSERT_TRUE(Fill(0, 5).ok());
  cuda_emulation::SetFaults({.copy_delay_ms = 10});
  Compute(0);  // its indices arrive late
  std::thread worker([&] { EXPECT_TRUE(Fill(0, 6).ok()); });
  worker.join();
  EXPECT_EQ(Result(), five);
  Compute(0);
  EXPECT_EQ(Result(), six);
}

// But for no kernels that use others.
TEST_F(HbmTierTest, AFillWaitsForNoOtherSlot) {
  const std::vector<float> five = Alone(5), six = Alone(6);
  ASSERT_TRUE(Fill(0, 5).ok());
  cuda_emulation::SetFaults({.copy_delay_ms = 30});
  Compute(0);  // several copies of indices, one after another
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(Fill(1, 6).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(4 * 30));
  EXPECT_EQ(Result(), five);
  cuda_emulation::SetFaults({});
  Compute(1);
  EXPECT_EQ(Result(), six);
}

// The indices of the last product cannot be copied: those before it are queued.
TEST_F(HbmTierTest, AFillWaitsForWhatAFailedStepHadQueued) {
  ASSERT_TRUE(Fill(0, 5).ok());
  cuda_emulation::SetFaults({.launch = 3});
  Compute(0);
  cuda_emulation::SetFaults({});
  ASSERT_TRUE(Fill(0, 6).ok());
  std::vector<float> values(kRows * kDim);
  EXPECT_FALSE(backend_->ReadBack(out_, values.data()).ok());
}

TEST_F(HbmTierTest, SlotsFillWhileOthersAreComputedWith) {
  const std::vector<float> five = Alone(5), six = Alone(6);
  ASSERT_TRUE(Fill(0, 5).ok());
  cuda_emulation::SetFaults({.copy_delay_ms = 5});
  std::thread worker([&] { EXPECT_TRUE(Fill(1, 6).ok()); });
  std::thread other([&] { EXPECT_TRUE(Fill(2, 7).ok()); });
  Compute(0);
  EXPECT_EQ(Result(), five);
  worker.join();
  other.join();
  Compute(1);
  EXPECT_EQ(Result(), six);
}

TEST_F(HbmTierTest, AFailedFillSaysSo) {
  const std::vector<float> six = Alone(6);
  cuda_emulation::SetFaults({.copy = 1});
  EXPECT_EQ(Fill(1, 6).code(), absl::StatusCode::kInternal);
  cuda_emulation::SetFaults({.allocation = 1});
  EXPECT_EQ(Fill(2, 6).code(), absl::StatusCode::kResourceExhausted);
  cuda_emulation::SetFaults({});
  ASSERT_TRUE(Fill(1, 6).ok());
  Compute(1);
  EXPECT_EQ(Result(), six);
}

// What the checker is for: were the fill not to wait, it would say so.
TEST_F(HbmTierTest, AFillThatDoesNotWaitIsReported) {
  ASSERT_TRUE(Fill(0, 5).ok());
  Compute(0);
  const StreamPtr stream = *NewStream(1);
  const PinnedPtr pinned = *NewPinnedMemory(layout_.bytes);
  ASSERT_EQ(cudaMemcpyAsync(tier_->slot(0).data(), pinned.get(), layout_.bytes,
                            cudaMemcpyHostToDevice, stream.get()),
            cudaSuccess);
  EXPECT_FALSE(cuda_emulation::TakeRaces().empty());
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
}

}  // namespace
}  // namespace hostler
