#include "engine/kv/block_pool.h"

#include <set>

#include "gtest/gtest.h"

namespace hostler {
namespace {

TEST(BlockPoolTest, GivesEveryBlockOnce) {
  BlockPool pool(3);
  std::set<int32_t> given;
  for (int i = 0; i < 3; ++i) given.insert(*pool.Allocate());
  EXPECT_EQ(given, (std::set<int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_EQ(pool.free(), 0);
}

TEST(BlockPoolTest, ASharedBlockIsFreeWithItsLastReference) {
  BlockPool pool(1);
  const int32_t block = *pool.Allocate();
  pool.AddRef(block);
  pool.Release(block);
  EXPECT_FALSE(pool.Allocate().has_value());
  pool.Release(block);
  EXPECT_EQ(pool.Allocate(), block);
}

TEST(BlockPoolTest, GivesTheLowestFirst) {
  BlockPool pool(4);
  for (int i = 0; i < 4; ++i) pool.Allocate();
  for (const int32_t block : {3, 0, 2}) pool.Release(block);
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.used(), 3);
}

TEST(BlockPoolTest, BlocksBeyondTheLimitAreNotGivenOut) {
  BlockPool pool(4, 2);
  EXPECT_EQ(pool.free(), 2);
  pool.set_limit(4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(pool.Allocate(), i);
  pool.set_limit(1);
  pool.Release(3);
  pool.Release(0);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.used(), 2) << "those in use stay";
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_FALSE(pool.Allocate().has_value());
  pool.set_limit(4);
  EXPECT_EQ(pool.Allocate(), 3);
}

}  // namespace
}  // namespace hostler
