#include "cache/predictor.h"

#include <gtest/gtest.h>

namespace hostler {
namespace {

constexpr PolicyShape kShape{3, 8};

void Ask(ExpertPredictor* predictor, int layer, const std::vector<int>& experts) {
  predictor->OnRequest({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
}

std::vector<ExpertGuess> Guesses(ExpertPredictor* predictor, int ahead) {
  std::vector<ExpertGuess> guesses;
  predictor->Predict(ahead, &guesses);
  return guesses;
}

TEST(TransitionPredictorTest, LearnsWhatFollowsAnExpert) {
  auto predictor = NewTransitionPredictor(kShape);
  for (int token = 0; token < 40; ++token) {
    const bool odd = token % 2 != 0;
    Ask(predictor.get(), 0, {odd ? 1 : 2});
    Ask(predictor.get(), 1, {odd ? 5 : 6});
    Ask(predictor.get(), 2, {odd ? 3 : 4});
  }
  Ask(predictor.get(), 0, {1});
  auto guesses = Guesses(predictor.get(), 1);
  ASSERT_FALSE(guesses.empty());
  EXPECT_EQ(guesses[0].key, (ExpertKey{1, 5}));
  EXPECT_GT(guesses[0].chance, 0.9);
  EXPECT_LE(guesses[0].chance, 1);
  for (const ExpertGuess& guess : guesses) {
    if (guess.key.expert != 5) {
      EXPECT_LT(guess.chance, 0.1);
    }
  }
  EXPECT_EQ(Guesses(predictor.get(), 2)[0].key, (ExpertKey{2, 3}));
}

TEST(TransitionPredictorTest, LooksFromTheLastLayerToTheNextTokensFirst) {
  auto predictor = NewTransitionPredictor(kShape);
  for (int token = 0; token < 40; ++token) {
    for (int layer = 0; layer < 3; ++layer) Ask(predictor.get(), layer, {token % 4});
  }
  EXPECT_EQ(Guesses(predictor.get(), 1)[0].key, (ExpertKey{0, 0})) << "after 39 comes 40 % 4";
}

TEST(TransitionPredictorTest, MatchesTheTokensOfAStepByTheirPlace) {
  auto predictor = NewTransitionPredictor(kShape);
  const std::vector<int> offsets = {0, 1, 2};
  const std::vector<int> first = {1, 2}, second = {5, 6};
  for (int step = 0; step < 20; ++step) {
    predictor->OnRequest({0, first, offsets, first, 2});
    predictor->OnRequest({1, second, offsets, second, 2});
    predictor->OnRequest({2, second, offsets, second, 2});
  }
  Ask(predictor.get(), 0, {2});
  EXPECT_EQ(Guesses(predictor.get(), 1)[0].key, (ExpertKey{1, 6}));
}

TEST(TransitionPredictorTest, SaysNothingBeforeItKnowsAnything) {
  auto predictor = NewTransitionPredictor(kShape);
  EXPECT_TRUE(Guesses(predictor.get(), 1).empty());
  Ask(predictor.get(), 0, {1});
  EXPECT_TRUE(Guesses(predictor.get(), 1).empty());
  EXPECT_TRUE(Guesses(predictor.get(), 0).empty());
  EXPECT_TRUE(Guesses(predictor.get(), 99).empty());
}

TEST(PreviousTokenPredictorTest, SaysTheLastTokensChoice) {
  auto predictor = *NewExpertPredictor("previous", kShape);
  for (int layer = 0; layer < 3; ++layer) Ask(predictor.get(), layer, {layer, 7});
  const auto guesses = Guesses(predictor.get(), 2);
  ASSERT_EQ(guesses.size(), 2);
  EXPECT_EQ(guesses[0].key, (ExpertKey{1, 1}));
  EXPECT_EQ(guesses[1].key, (ExpertKey{1, 7}));
}

TEST(PredictorNamesTest, AnUnknownNameIsAnError) {
  EXPECT_EQ(NewExpertPredictor("oracle", kShape).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hostler
