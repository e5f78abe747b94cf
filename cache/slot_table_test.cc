#include "cache/slot_table.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "cache/fake_store.h"

namespace hostler {
namespace {

constexpr size_t kPage = 4096;

// What a table asks of its tier.
struct Asked {
  std::vector<size_t> sizes;
  uint64_t reserved = 0;
};

class NotingTier : public Tier {
 public:
  NotingTier(std::unique_ptr<Tier> memory, Asked* asked)
      : memory_(std::move(memory)), asked_(*asked) {}
  std::span<std::byte> slot(int index) override { return memory_->slot(index); }
  bool on_host() const override { return true; }
  bool locked() const override { return false; }
  void Discard(int index) override { memory_->Discard(index); }
  absl::Status Fill(int index, std::span<const std::byte> bytes,
                    const std::atomic<bool>& demanded) override {
    return memory_->Fill(index, bytes, demanded);
  }
  absl::Status Reserve(uint64_t bytes) override {
    asked_.reserved = bytes;
    return bytes > 100 * kPage ? absl::ResourceExhaustedError("too much") : absl::OkStatus();
  }

 private:
  const std::unique_ptr<Tier> memory_;
  Asked& asked_;
};

absl::StatusOr<SlotTable> Make(const FakeStore& store, uint64_t budget, bool one_size,
                               Asked* asked) {
  return SlotTable::Create(
      store, budget,
      [asked](std::span<const SlotClass> classes) -> absl::StatusOr<std::unique_ptr<Tier>> {
        for (const SlotClass& slots : classes) asked->sizes.push_back(slots.bytes);
        return std::make_unique<NotingTier>(*NewDramTier(classes), asked);
      },
      one_size);
}

TEST(SlotTableTest, ReservesWhatItMayUse) {
  const FakeStore store({{4, kPage}, {4, kPage}});
  Asked asked;
  ASSERT_TRUE(Make(store, 3 * kPage, false, &asked).ok());
  EXPECT_EQ(asked.reserved, 3 * kPage);
  ASSERT_TRUE(Make(store, 30 * kPage, false, &asked).ok());
  EXPECT_EQ(asked.reserved, 8 * kPage);
  const FakeStore large({{200, kPage}});
  EXPECT_EQ(Make(large, 200 * kPage, false, &asked).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(SlotTableTest, SlotsAreOfOneSizeWhereThatIsAskedForAndLosesLittle) {
  const FakeStore alike({{8, 7 * kPage}, {8, 8 * kPage}}), unlike({{8, kPage}, {8, 8 * kPage}});
  Asked own, one, all, lost;
  ASSERT_TRUE(Make(alike, 32 * kPage, false, &own).ok());
  EXPECT_EQ(own.sizes, std::vector<size_t>({7 * kPage, 8 * kPage}));
  auto table = Make(alike, 32 * kPage, true, &one);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(one.sizes, std::vector<size_t>({8 * kPage}));
  for (int expert = 0; expert < 4; ++expert) {
    EXPECT_TRUE(table->Take({expert % 2, expert}).has_value());
  }
  EXPECT_FALSE(table->Take({0, 5}).has_value());
  table->Free(table->Find({1, 1}));
  EXPECT_TRUE(table->Take({0, 5}).has_value());
  ASSERT_TRUE(Make(unlike, 32 * kPage, true, &lost).ok());
  EXPECT_EQ(lost.sizes.size(), 2u);
  ASSERT_FALSE(Make(alike, 120 * kPage, true, &all).ok()) << "all are reserved";
  EXPECT_EQ(all.sizes.size(), 2u) << "all fit, none leaves";
}

}  // namespace
}  // namespace hostler
