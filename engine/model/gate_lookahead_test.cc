#include "engine/model/gate_lookahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using From = GateLookahead::From;

// Gates that choose for a hidden state [1, a, b] the experts a and b.
class GateLookaheadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = NewCpuBackend(1);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    const GateLookahead::Gate gate = [](Backend&, Mat x, Mat, ExpertSelection* selection) {
      *selection = Selection(x);
    };
    lookahead_.SetGates({gate, gate}, /*experts=*/8);
    WorkArena planned;
    lookahead_.Place(planned, 2, 8);
    memory_.resize(planned.bytes() / sizeof(float));
    WorkArena arena(memory_.data());
    lookahead_.Place(arena, 2, 8);
  }

  static ExpertSelection Selection(Mat x) {
    ExpertSelection selection;
    selection.offsets = {0};
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int i = 0; i < 2; ++i) selection.experts.push_back(static_cast<int>(x.row(row)[i]));
      selection.offsets.push_back(static_cast<int>(selection.experts.size()));
    }
    return selection;
  }

  static ExpertSelection Chosen(std::vector<float> hidden) {
    return Selection({hidden.data(), static_cast<int64_t>(hidden.size()) / 2, 2});
  }

  // (expert, chance in per cent), of layer 1.
  std::vector<std::pair<int, int>> Guess(std::vector<float> hidden, int layer = 1,
                                         From from = From::kLayerBefore) {
    std::vector<std::pair<int, int>> guesses;
    const Mat x{hidden.data(), static_cast<int64_t>(hidden.size()) / 2, 2};
    for (const ExpertGuess& guess : lookahead_.Guess(*backend_, layer, from, x)) {
      EXPECT_EQ(guess.key.layer, layer);
      guesses.emplace_back(guess.key.expert, static_cast<int>(guess.chance * 100 + 0.5f));
    }
    return guesses;
  }

  std::unique_ptr<Backend> backend_;
  GateLookahead lookahead_;
  std::vector<float> memory_;
};

TEST_F(GateLookaheadTest, GuessesWhatTheNextGateChooses) {
  EXPECT_THAT(Guess({3, 6}), ElementsAre(std::pair(3, 50), std::pair(6, 50)));
}

TEST_F(GateLookaheadTest, LearnsHowOftenEachRankIsRight) {
  for (int i = 0; i < 200; ++i) {
    Guess({3, 6});
    lookahead_.Learn(1, Chosen({3, i % 4 == 0 ? 6.0f : 7.0f}));
  }
  const auto guesses = Guess({2, 4});
  ASSERT_EQ(guesses.size(), 2u);
  EXPECT_EQ(guesses[0].first, 2);
  EXPECT_GT(guesses[0].second, 98);
  EXPECT_EQ(guesses[1].first, 4);
  EXPECT_NEAR(guesses[1].second, 25, 3);
  EXPECT_THAT(Guess({2, 4}, 0), ElementsAre(std::pair(2, 50), std::pair(4, 50)))
      << "each layer by itself";
}

TEST_F(GateLookaheadTest, LearnsOfEachOriginByItself) {
  for (int i = 0; i < 200; ++i) {
    Guess({3, 6}, 1, From::kLayerBefore);
    Guess({3, 7}, 1, From::kOwnInput);
    lookahead_.Learn(1, Chosen({7, 3}));
  }
  const auto before = Guess({2, 4}), own = Guess({2, 4}, 1, From::kOwnInput);
  ASSERT_TRUE(before.size() == 2 && own.size() == 2);
  EXPECT_LT(before[1].second, 2);
  EXPECT_GT(own[1].second, 98);
}

TEST_F(GateLookaheadTest, AnExpertThatMoreRowsWantIsLikelier) {
  EXPECT_THAT(Guess({1, 5, 2, 5}),
              ElementsAre(std::pair(5, 75), std::pair(1, 50), std::pair(2, 50)));
}

TEST_F(GateLookaheadTest, AFewRowsStandForManyOfAPrompt) {
  std::vector<float> hidden;
  for (int row = 0; row < 160; ++row) {
    hidden.push_back(static_cast<float>(row / 80));
    hidden.push_back(7);
  }
  EXPECT_THAT(Guess(hidden), ElementsAre(std::pair(0, 100), std::pair(1, 100), std::pair(7, 100)));
}

TEST_F(GateLookaheadTest, ExpertsWithoutWeightsAreNoGuesses) {
  EXPECT_THAT(Guess({3, 9}), ElementsAre(std::pair(3, 50)));
}

TEST_F(GateLookaheadTest, NothingFollowsTheLastLayer) { EXPECT_THAT(Guess({1, 2}, 2), IsEmpty()); }

TEST_F(GateLookaheadTest, LearnsOnlyFromTheLayerItGuessedOf) {
  for (int i = 0; i < 50; ++i) {
    Guess({3, 6});
    lookahead_.Learn(0, Chosen({1, 2}));
  }
  EXPECT_THAT(Guess({3, 6}), ElementsAre(std::pair(3, 50), std::pair(6, 50)));
}

}  // namespace
}  // namespace hostler
