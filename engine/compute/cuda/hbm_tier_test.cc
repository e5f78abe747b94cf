// Experts in device memory: what computes with them sees what was filled in, whatever
// fails or takes its time.
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
    memory_.reset();
    backend_.reset();
    cuda_emulation::Reset();
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  absl::Status Fill(int slot, uint32_t seed) {
    std::vector<std::byte> bytes = OwnedWeight(DType::kQ8_0, 3 * kFfn, kDim, seed).bytes;
    const absl::Status status = tier_->Fill(slot, bytes);
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
  std::unique_ptr<Tier> tier_;
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
