#include "router/quality/predictor.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "engine/base/checksum.h"
#include "gtest/gtest.h"
#include "router/quality/trainer.h"

namespace hostler {
namespace {

// "a" knows birds and answers at length; "b" knows sums.
RoutingSet BirdsAndSums() {
  RoutingSet set{.name = "toy", .models = {"a", "b"}, .prices = {{1, 1}, {2, 2}}, .rows = {}};
  for (int i = 0; i < 200; ++i) {
    const bool bird = i % 2 == 0;
    const std::string n = std::to_string(i * 37 % 91);
    set.rows.push_back({.id = n,
                        .subject = bird ? "birds" : "sums",
                        .prompt = bird ? "Which feather does bird " + n + " lose?"
                                       : "What is the sum " + n + " + 4 = ?",
                        .prompt_tokens = 8,
                        .quality = {bird ? 1.0f : 0.0f, bird ? 0.0f : 1.0f},
                        .tokens = {bird ? 100.0f : 50.0f, 10},
                        .embedding = {}});
  }
  return set;
}

RouterModel Trained() {
  const std::vector<RoutingSet> sets = {BirdsAndSums()};
  return *TrainRouter(sets, {.hash_bits = 8});
}

std::vector<QualityEstimate> Ask(const QualityPredictor& predictor, std::string_view text) {
  std::vector<QualityEstimate> out(predictor.models().size());
  predictor.Predict({.text = text}, out);
  return out;
}

TEST(Predictor, TellsWhoKnowsATopic) {
  const QualityPredictor predictor(Trained());
  ASSERT_EQ(predictor.models(), (std::vector<std::string>{"a", "b"}));
  const auto bird = Ask(predictor, "Which feather does the bird keep?");
  const auto sum = Ask(predictor, "What is the sum 3 + 4 = ?");
  EXPECT_GT(bird[0].quality, bird[1].quality + 0.3);
  EXPECT_GT(sum[1].quality, sum[0].quality + 0.3);
  EXPECT_GT(bird[0].output_tokens, sum[0].output_tokens + 10);
}

TEST(Predictor, AnyPromptHasAChance) {
  const QualityPredictor predictor(Trained());
  std::string bytes;
  for (int i = 0; i < 300'000; ++i) bytes.push_back(static_cast<char>(i * 2654435761u >> 13));
  for (const std::string_view text : {std::string_view(), std::string_view(bytes)}) {
    for (const QualityEstimate& estimate : Ask(predictor, text)) {
      EXPECT_GE(estimate.quality, 0);
      EXPECT_LE(estimate.quality, 1);
    }
  }
}

TEST(Predictor, UsesAnEmbeddingOfItsLengthOnly) {
  RoutingSet set = BirdsAndSums();
  for (RoutingRow& row : set.rows) {
    row.embedding = {row.quality[0], row.quality[1]};
    row.prompt = "same";
  }
  // Folds are by prompt; make them differ, in what no hashed feature shows twice.
  for (size_t i = 0; i < set.rows.size(); ++i) set.rows[i].prompt += std::to_string(i);
  const std::vector<RoutingSet> sets = {set};
  const QualityPredictor predictor(*TrainRouter(sets, {.hash_bits = 16, .neighbour_weight = 0.6f}));
  ASSERT_EQ(predictor.embeddings().size, 2);
  std::vector<QualityEstimate> with(2), without(2), wrong(2);
  const std::vector<float> bird = {1, 0}, three = {1, 0, 0};
  predictor.Predict({.text = "?", .embedding = bird}, with);
  predictor.Predict({.text = "?"}, without);
  predictor.Predict({.text = "?", .embedding = three}, wrong);
  EXPECT_GT(with[0].quality, with[1].quality + 0.3);
  EXPECT_EQ(wrong[0].quality, without[0].quality);
}

TEST(Predictor, AsksTheNearestPromptsWhatBecameOfThem) {
  NeighbourIndex index{.count = 2, .weight = 1};
  const std::vector<std::vector<float>> embeddings = {{3, 0}, {1, 1}, {0, 2}, {-1, 0}, {0, 0}};
  for (size_t i = 0; i < embeddings.size(); ++i) {
    AddNeighbour(embeddings[i], std::vector<float>{float(i == 0), float(i == 1), 0.2f}, &index);
  }
  std::vector<float> mean(3);
  ASSERT_TRUE(NeighbourMean(index, std::vector<float>{10, 0}, mean));
  // The squared cosines are 1 and 1/2.
  EXPECT_NEAR(mean[0], 2.0 / 3, 1e-3);
  EXPECT_NEAR(mean[1], 1.0 / 3, 1e-3);
  EXPECT_NEAR(mean[2], 0.2, 1e-3);
  EXPECT_TRUE(NeighbourMean(index, std::vector<float>{-0.1f, 0}, mean));
  EXPECT_EQ(mean[0] + mean[1], 0) << "only the fourth points there";
  EXPECT_FALSE(NeighbourMean(index, std::vector<float>{0, 0}, mean));
  EXPECT_FALSE(NeighbourMean(index, std::vector<float>{0, -1}, mean)) << "none is near";
  EXPECT_FALSE(NeighbourMean(index, std::vector<float>{INFINITY, 0}, mean));
}

TEST(Training, GivesTheSameBytesAgain) {
  EXPECT_EQ(SerializeRouterModel(Trained()), SerializeRouterModel(Trained()));
}

TEST(Training, RefusesWhatItCannotLearnFrom) {
  RoutingSet few = BirdsAndSums();
  few.rows.resize(5);
  EXPECT_FALSE(TrainRouter(std::vector<RoutingSet>{few}, {}).ok());
  RoutingSet uneven = BirdsAndSums();
  uneven.rows[3].embedding = {1};
  EXPECT_FALSE(TrainRouter(std::vector<RoutingSet>{uneven}, {}).ok());
  EXPECT_FALSE(TrainRouter({}, {}).ok());
  EXPECT_FALSE(TrainRouter(std::vector<RoutingSet>{BirdsAndSums()}, {.penalties = {}}).ok());
}

TEST(Training, TakesThePenaltyThatForetellsBest) {
  const std::vector<RoutingSet> sets = {BirdsAndSums()};
  const auto bytes = [&](std::vector<float> penalties) {
    return SerializeRouterModel(*TrainRouter(sets, {.hash_bits = 8, .penalties = penalties}));
  };
  // What both models have in common is always the same here: heads of 0 by any penalty.
  EXPECT_EQ(bytes({1e6, 4, 1e5}), bytes({4}));
  EXPECT_NE(bytes({1e6}), bytes({4}));
}

TEST(RouterFile, ComesBackAsItWas) {
  const std::string bytes = SerializeRouterModel(Trained());
  const auto model = ParseRouterModel(bytes);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(SerializeRouterModel(*model), bytes);
  const std::string path = testing::TempDir() + "/router.bin";
  std::ofstream(path, std::ios::binary) << bytes;
  ASSERT_TRUE(QualityPredictor::Load(path).ok());
  std::ofstream(path, std::ios::binary) << "<html>";
  const auto refused = QualityPredictor::Load(path);
  EXPECT_NE(refused.status().message().find(path), std::string::npos);
  EXPECT_TRUE(absl::IsNotFound(QualityPredictor::Load(path + "none").status()));
}

TEST(RouterFile, NamesItsEncoder) {
  RouterModel model = Trained();
  model.encoder = "beef";
  model.encoder_tokens = 64;
  EXPECT_FALSE(CheckRouterModel(model).ok()) << "without embeddings";
  model.embedding_size = 2;
  const auto read = ParseRouterModel(SerializeRouterModel(model));
  ASSERT_TRUE(read.ok()) << read.status();
  const EmbeddingKind kind = QualityPredictor(*read).embeddings();
  EXPECT_EQ(kind.encoder, "beef");
  EXPECT_EQ(kind.tokens, 64);
  EXPECT_EQ(kind.size, 2);
}

TEST(RouterFile, OfAnotherVersionIsRefused) {
  std::string bytes = SerializeRouterModel(Trained());
  bytes[8] = 1;
  EXPECT_EQ(ParseRouterModel(bytes).status().message(),
            "version 1 of router files; this program reads version 4: train anew");
}

TEST(RouterFile, OneComesWithTheProgram) {
  const auto router = QualityPredictor::Load("default");
  ASSERT_TRUE(router.ok()) << router.status();
  const std::vector<std::string>& models = (*router)->models();
  const auto of = [&](std::string_view name) {
    return std::find(models.begin(), models.end(), name) - models.begin();
  };
  const size_t weak = of("mistralai/Mixtral-8x7B-Instruct-v0.1"), strong = of("gpt-4-1106-preview");
  ASSERT_LT(weak, models.size());
  ASSERT_LT(strong, models.size());
  const auto hard = Ask(**router, "Find the degree of the field extension Q(sqrt(2)) over Q.");
  const auto easy = Ask(**router, "Which of these is a common symptom of a cold?");
  EXPECT_GT(hard[strong].quality, hard[weak].quality);
  EXPECT_GT(easy[weak].quality, hard[weak].quality);
}

TEST(RouterFile, DamageIsFound) {
  const std::string bytes = SerializeRouterModel(Trained());
  for (size_t at = 0; at < bytes.size(); at += at < 200 ? 1 : 97) {
    std::string damaged = bytes;
    damaged[at] ^= 0x41;
    EXPECT_FALSE(ParseRouterModel(damaged).ok()) << at;
    EXPECT_FALSE(ParseRouterModel(bytes.substr(0, at)).ok()) << at;
  }
}

// With a checksum that fits, the bounds alone must hold.
TEST(RouterFile, HostileOnesAreRefusedOrHarmless) {
  RoutingSet set = BirdsAndSums();
  for (RoutingRow& row : set.rows) row.embedding = {row.quality[0], row.quality[1]};
  const std::string bytes =
      SerializeRouterModel(*TrainRouter(std::vector<RoutingSet>{set}, {.hash_bits = 8}));
  int refused = 0;
  for (size_t at = 20; at + 12 < bytes.size();
       at += at < 100 || at + 2000 > bytes.size() ? 1 : 211) {
    for (const char value : {'\xff', '\x7f', '\0'}) {
      std::string hostile = bytes;
      for (int k = 0; k < 4; ++k) hostile[at + k] = value;
      const uint64_t sum = Checksum(std::string_view(hostile).substr(0, hostile.size() - 8));
      hostile.replace(hostile.size() - 8, 8, reinterpret_cast<const char*>(&sum), 8);
      auto model = ParseRouterModel(hostile);
      if (!model.ok()) {
        ++refused;
        continue;
      }
      const QualityPredictor predictor(*std::move(model));
      std::vector<QualityEstimate> estimates(predictor.models().size());
      const std::vector<float> embedding = {0.5, 1};
      predictor.Predict({.text = "bird 4", .embedding = embedding}, estimates);
      for (const QualityEstimate& estimate : estimates) {
        EXPECT_TRUE(estimate.quality >= 0 && estimate.quality <= 1) << at;
      }
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace hostler
