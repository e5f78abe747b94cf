#include "cache/store_sizes.h"

#include <gtest/gtest.h>

#include "cache/fake_store.h"

namespace hostler {
namespace {

TEST(StoreSizesTest, TellsTheLargestAndTheSum) {
  const FakeStore store({{8, 5000}, {2, 9000, /*decode=*/true}, {16, 4096}});
  const auto sizes = MeasureStore(store);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  EXPECT_EQ(sizes->slot_bytes, 9000u);
  EXPECT_EQ(sizes->stored_bytes, 4500u) << "of those that are decoded";
  EXPECT_EQ(sizes->max_experts_per_layer, 16);
  EXPECT_EQ(sizes->experts, 26);
  EXPECT_EQ(sizes->all_slots_bytes, 8 * 8192u + 2 * 12288u + 16 * 4096u);
}

TEST(StoreSizesTest, AStoreWithoutExpertsIsAnError) {
  EXPECT_TRUE(absl::IsInvalidArgument(MeasureStore(FakeStore({{0, 4096}})).status()));
}

}  // namespace
}  // namespace hostler
