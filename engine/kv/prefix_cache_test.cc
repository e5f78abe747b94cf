#include "engine/kv/prefix_cache.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cache/count_allocations.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using Tokens = std::vector<int32_t>;

// Plays sequences: takes what is cached of their tokens and computes the rest.
class PrefixCacheTest : public ::testing::Test {
 protected:
  void Start(int blocks, PrefixCache::Options options = {}) {
    options.block_tokens = 2;
    cache_ = std::make_unique<PrefixCache>(BlockPool(blocks), options);
  }

  PrefixCache::Content ContentOf(const Tokens& tokens, const Tokens& blocks,
                                 std::string_view salt = "") const {
    return {.parent = blocks.empty() ? PrefixCache::kNone : blocks.back(),
            .salt = salt,
            .tokens = std::span(tokens).subspan(blocks.size() * 2, 2)};
  }

  // The cached blocks of the prefix, in use now.
  Tokens Find(const Tokens& tokens, std::string_view salt = "") {
    Tokens blocks;
    while ((blocks.size() + 1) * 2 <= tokens.size()) {
      const auto block = cache_->Take(ContentOf(tokens, blocks, salt));
      if (!block.has_value()) break;
      blocks.push_back(*block);
    }
    return blocks;
  }

  // All blocks, those found and those that had to be computed.
  Tokens Run(const Tokens& tokens, std::string_view salt = "") {
    Tokens blocks = Find(tokens, salt);
    while ((blocks.size() + 1) * 2 <= tokens.size()) {
      const auto block = cache_->Allocate();
      EXPECT_TRUE(block.has_value());
      if (!block.has_value()) break;
      const auto cached = cache_->Insert(ContentOf(tokens, blocks, salt), *block);
      EXPECT_TRUE(cached.has_value());
      blocks.push_back(cached.value_or(*block));
    }
    return blocks;
  }

  void RunAndEnd(const Tokens& tokens) { cache_->Release(Run(tokens)); }

  // How many blocks of a prefix are cached; counts as no use.
  int Cached(const Tokens& tokens) {
    Tokens blocks = Find(tokens);
    cache_->Release(blocks);
    return static_cast<int>(blocks.size());
  }

  std::unique_ptr<PrefixCache> cache_;
};

TEST_F(PrefixCacheTest, FindsTheLongestPrefix) {
  Start(10);
  const Tokens first = Run({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Find({1, 2, 3, 4, 9, 9}), (Tokens{first[0], first[1]}));
  EXPECT_EQ(Find({3, 4}), Tokens()) << "the same tokens after others";
  EXPECT_EQ(Find({1, 2, 5, 6}), Tokens{first[0]});
}

TEST_F(PrefixCacheTest, BlocksStayWhenNobodyUsesThem) {
  Start(4);
  const Tokens blocks = Run({1, 2, 3, 4});
  EXPECT_EQ(cache_->used(), 2);
  cache_->Release(blocks);
  EXPECT_EQ(cache_->used(), 0);
  EXPECT_EQ(cache_->cached(), 2);
  EXPECT_EQ(cache_->free(), 4);
  EXPECT_EQ(Find({1, 2, 3, 4}), blocks);
  EXPECT_EQ(cache_->used(), 2);
}

TEST_F(PrefixCacheTest, KeepsNothingIfNotToldTo) {
  Start(4, {.keep = false});
  const Tokens blocks = Run({1, 2, 3, 4});
  const Tokens shared = Find({1, 2, 3, 4});
  EXPECT_EQ(shared, blocks);
  cache_->Release(blocks);
  EXPECT_EQ(cache_->used(), 2);
  cache_->Release(shared);
  EXPECT_EQ(cache_->cached(), 0);
  EXPECT_EQ(Find({1, 2}), Tokens());
}

TEST_F(PrefixCacheTest, WhatWasComputedTwiceBecomesOneBlock) {
  Start(4);
  const auto a = cache_->Allocate(), b = cache_->Allocate();
  const Tokens tokens = {1, 2};
  EXPECT_EQ(cache_->Insert(ContentOf(tokens, {}), *a), a);
  EXPECT_EQ(cache_->Insert(ContentOf(tokens, {}), *b), a);
  EXPECT_EQ(cache_->used(), 1);
  cache_->Release(Tokens{*a});
  EXPECT_EQ(cache_->used(), 1) << "the other's reference";
  cache_->Release(Tokens{*a});
  EXPECT_EQ(cache_->used(), 0);
}

TEST_F(PrefixCacheTest, ADifferentSaltFindsNothing) {
  Start(10);
  const Tokens plain = Run({1, 2, 3, 4});
  const Tokens salted = Run({1, 2, 3, 4}, "a");
  EXPECT_NE(plain[0], salted[0]);
  EXPECT_EQ(Find({1, 2, 3, 4}, "a"), salted);
  EXPECT_EQ(Find({1, 2, 3, 4}, "b"), Tokens());
  EXPECT_EQ(Find({1, 2, 3, 4}), plain);
}

Hash128 Same(std::span<const std::byte>) { return {}; }

TEST_F(PrefixCacheTest, EqualHashesGiveNoWrongBlock) {
  Start(10, {.hash = Same});
  const Tokens first = Run({1, 2});
  EXPECT_EQ(Find({1, 2}), first);
  EXPECT_EQ(Find({1, 3}), Tokens());
  EXPECT_EQ(Find({1, 2}, "salt"), Tokens());
  EXPECT_EQ(Find({1, 2, 1, 2}), first) << "the second stands after the first";
  const auto other = cache_->Allocate();
  const Tokens tokens = {1, 3};
  EXPECT_FALSE(cache_->Insert(ContentOf(tokens, {}), *other).has_value());
  const int used = cache_->used();
  cache_->Release(Tokens{*other});
  EXPECT_EQ(cache_->used(), used - 1);
  EXPECT_EQ(Find({1, 2}), first);
}

TEST_F(PrefixCacheTest, GivesUpTheLeastRecentFirstAndLeavesBeforeWhatTheyStandOn) {
  Start(6);
  const Tokens old = {1, 2, 3, 4, 5, 6}, young = {1, 2, 7, 8, 9, 10};
  RunAndEnd(old);
  RunAndEnd(young);  // 5 blocks, the first shared
  Tokens taken = {*cache_->Allocate()};
  for (const auto& [left_of_old, left_of_young] :
       {std::pair(2, 3), {1, 3}, {1, 2}, {1, 1}, {0, 0}}) {
    taken.push_back(*cache_->Allocate());
    // Without touching: what the table of hashes has.
    EXPECT_EQ(cache_->cached(), 6 - int(taken.size()));
    EXPECT_EQ(Cached(old), left_of_old);
    EXPECT_EQ(Cached(young), left_of_young);
  }
  EXPECT_FALSE(cache_->Allocate().has_value());
  EXPECT_EQ(cache_->evictions(), 5u);
}

TEST_F(PrefixCacheTest, NeverGivesUpABlockInUse) {
  Start(3);
  const Tokens running = Run({1, 2, 3, 4});
  RunAndEnd({7, 8});
  EXPECT_TRUE(cache_->Allocate().has_value());
  EXPECT_FALSE(cache_->Allocate().has_value());
  EXPECT_EQ(Find({1, 2, 3, 4}), running);
}

TEST_F(PrefixCacheTest, WhatWasUsedAgainStaysLonger) {
  Start(8);
  RunAndEnd({1, 1});
  RunAndEnd({1, 1});
  for (int32_t i = 10; i < 20; ++i) RunAndEnd({i, i});  // a scan larger than the cache
  EXPECT_EQ(Cached({1, 1}), 1);
  EXPECT_EQ(Cached({12, 12}), 0);
  for (int32_t i = 20; i < 40; ++i) RunAndEnd({i, i});
  EXPECT_EQ(Cached({1, 1}), 0) << "but not for ever";
}

TEST_F(PrefixCacheTest, ALowerLimitDropsWhatLiesBeyondAndWhatStandsOnIt) {
  Start(6);
  const Tokens filler = {*cache_->Allocate(), *cache_->Allocate(), *cache_->Allocate()};
  const Tokens tokens = {1, 2, 3, 4, 5, 6};
  Tokens blocks = Run({1, 2, 3, 4});  // blocks 3 and 4
  cache_->Release(filler);
  blocks.push_back(*cache_->Allocate());  // block 0
  ASSERT_EQ(cache_->Insert(ContentOf(tokens, {blocks[0], blocks[1]}), blocks[2]), blocks[2]);
  ASSERT_EQ(blocks, (Tokens{3, 4, 0}));
  const Tokens first = Find({1, 2});
  cache_->Release(blocks);
  cache_->set_limit(4);
  EXPECT_EQ(Cached(tokens), 1);
  EXPECT_EQ(cache_->free(), 3) << "all below 4 but the one in use";
  cache_->set_limit(2);
  EXPECT_EQ(cache_->used(), 1) << "what is in use stays";
  cache_->Release(first);
  EXPECT_EQ(cache_->cached(), 0) << "until it is released";
  EXPECT_EQ(cache_->free(), 2);
}

TEST_F(PrefixCacheTest, NamesABlockByAllThatIsBeforeIt) {
  Start(10);
  const Tokens one = Run({1, 2, 3, 4}), two = Run({5, 6, 3, 4});
  EXPECT_NE(cache_->hash(one[1]), cache_->hash(two[1]));
  EXPECT_TRUE(std::ranges::equal(cache_->tokens(one[1]), Tokens{3, 4}));
  PrefixCache other(BlockPool(3), {.block_tokens = 2});
  const Tokens tokens = {1, 2};
  const auto block = other.Insert({.tokens = tokens}, *other.Allocate());
  EXPECT_EQ(other.hash(*block), cache_->hash(one[0])) << "the same anywhere";
}

// Against a plain model: the blocks found are those of a prefix that was
// computed, nothing in use is lost, and the counts agree.
TEST_F(PrefixCacheTest, HoldsUnderRandomUse) {
  constexpr int kBlocks = 40;
  Start(kBlocks);
  std::mt19937 random(1);
  std::vector<std::pair<Tokens, Tokens>> running;  // tokens, blocks
  std::map<int32_t, Tokens> holds;                 // by block: all tokens up to its end
  for (int i = 0; i < 20000; ++i) {
    if (running.size() > 4 || (random() % 2 == 0 && !running.empty())) {
      const size_t at = random() % running.size();
      cache_->Release(running[at].second);
      running.erase(running.begin() + at);
      continue;
    }
    if (random() % 50 == 0) {
      cache_->set_limit(20 + random() % 21);
      continue;
    }
    Tokens tokens(2 + random() % 11);
    for (int32_t& token : tokens) token = random() % 2;
    Tokens blocks = Find(tokens);
    for (size_t b = 0; b < blocks.size(); ++b) {
      ASSERT_EQ(holds[blocks[b]], Tokens(tokens.begin(), tokens.begin() + 2 * (b + 1)));
    }
    while ((blocks.size() + 1) * 2 <= tokens.size()) {
      const auto block = cache_->Allocate();
      if (!block.has_value()) break;
      for (const auto& [_, others] : running) {
        ASSERT_EQ(std::count(others.begin(), others.end(), *block), 0) << "it is in use";
      }
      holds[*block] = Tokens(tokens.begin(), tokens.begin() + 2 * (blocks.size() + 1));
      ASSERT_EQ(cache_->Insert(ContentOf(tokens, blocks), *block), block);
      blocks.push_back(*block);
    }
    running.emplace_back(std::move(tokens), std::move(blocks));
    std::set<int32_t> used;
    for (const auto& [_, others] : running) used.insert(others.begin(), others.end());
    ASSERT_EQ(cache_->used(), int(used.size()));
    ASSERT_LE(cache_->free(), cache_->limit());
  }
  for (const auto& [_, blocks] : running) cache_->Release(blocks);
  EXPECT_EQ(cache_->free(), cache_->limit());
  EXPECT_GT(cache_->evictions(), 1000u);
}

TEST_F(PrefixCacheTest, AllocatesNothingOnceItStands) {
  Start(16);
  const Tokens tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  Tokens blocks;
  blocks.reserve(8);
  const int before = CountAllocations();
  for (int i = 0; i < 100; ++i) {
    blocks.clear();
    const Tokens::value_type last = i;
    for (int b = 0; b < 4; ++b) {
      const int32_t own[2] = {last, b};
      const PrefixCache::Content content{
          .parent = blocks.empty() ? PrefixCache::kNone : blocks.back(), .tokens = own};
      blocks.push_back(*cache_->Insert(content, *cache_->Allocate()));
    }
    cache_->Release(blocks);
  }
  EXPECT_EQ(CountAllocations(), before);
  EXPECT_EQ(cache_->evictions(), 400u - 16u);
}

}  // namespace
}  // namespace hostler
