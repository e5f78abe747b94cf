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

}  // namespace
}  // namespace hostler
