#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using Score = GateSpec::Score;
using GroupScore = GateSpec::GroupScore;
using testing::OwnedMat;

OwnedMat MatOf(int64_t rows, std::vector<float> values) {
  OwnedMat mat(rows, static_cast<int64_t>(values.size()) / rows);
  std::copy(values.begin(), values.end(), mat.mat.data);
  return mat;
}

struct Choice {
  int expert;
  double weight;
};

std::vector<double> Softmax(const std::vector<double>& x) {
  std::vector<double> result;
  double sum = 0;
  for (double v : x) sum += std::exp(v);
  for (double v : x) result.push_back(std::exp(v) / sum);
  return result;
}

// Strongest first, equal ones by the lower index.
std::vector<int> Order(const std::vector<double>& scores) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  return order;
}

std::vector<Choice> SparseMixer(const GateSpec& spec, const std::vector<double>& logits) {
  std::vector<Choice> choices;
  std::vector<double> left = logits;
  for (int i = 0; i < spec.top_k; ++i) {
    const int best = Order(left)[0];
    double sum = 0;
    for (size_t e = 0; e < logits.size(); ++e) {
      const double factor = std::max(std::fabs(logits[e]), left[best]);
      if ((left[best] - logits[e]) / factor <= 2 * spec.jitter) sum += std::exp(left[e]);
    }
    choices.push_back({best, std::exp(left[best]) / sum * spec.scale});
    left[best] = -std::numeric_limits<double>::infinity();
  }
  return choices;
}

// GateSpec's words, in double precision.
std::vector<Choice> Expected(const GateSpec& spec, const float* row, int64_t experts) {
  const std::vector<double> logits(row, row + experts);
  if (spec.score == Score::kSparseMixer) return SparseMixer(spec, logits);
  std::vector<double> scores = logits;
  if (spec.score == Score::kSoftmax) scores = Softmax(logits);
  if (spec.score == Score::kSigmoid) {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  }
  std::vector<double> choosing = scores;
  for (size_t e = 0; e < spec.bias.size(); ++e) choosing[e] += spec.bias[e];
  const int64_t size = experts / spec.groups;
  std::vector<double> group_scores;
  for (int g = 0; g < spec.groups; ++g) {
    std::vector<double> group(choosing.begin() + g * size, choosing.begin() + (g + 1) * size);
    std::sort(group.rbegin(), group.rend());
    group_scores.push_back(group[0] + (spec.group_score == GroupScore::kBestTwo ? group[1] : 0));
  }
  const std::vector<int> best_groups = Order(group_scores);
  for (int g = spec.top_groups; g < spec.groups; ++g) {
    std::fill_n(choosing.begin() + best_groups[g] * size, size,
                -std::numeric_limits<double>::infinity());
  }
  std::vector<Choice> choices;
  double sum = 0;
  const int real = static_cast<int>(experts) - spec.idle;
  int places = 0;
  double reached = 0;
  for (int e : Order(choosing)) {
    if (places++ == spec.top_k) break;
    if (spec.top_p > 0 && reached >= spec.top_p) break;
    reached += scores[e];
    if (e >= real) continue;
    choices.push_back({e, scores[e]});
    sum += scores[e];
  }
  if (spec.score == Score::kLogits) {
    std::vector<double> chosen;
    for (const Choice& choice : choices) chosen.push_back(choice.weight);
    chosen = Softmax(chosen);
    for (size_t i = 0; i < choices.size(); ++i) choices[i].weight = chosen[i];
  } else if (spec.normalize) {
    for (Choice& choice : choices) {
      choice.weight /= std::max(sum + spec.sum_epsilon, double{spec.least_sum});
    }
  }
  for (Choice& choice : choices) choice.weight *= spec.scale;
  return choices;
}

class GateTest : public testing::EveryIsa {
 protected:
  // Returns how many experts all rows chose.
  size_t ExpectRight(const GateSpec& spec, Mat logits) {
    ExpertSelection selection;
    two_->SelectExperts(spec, logits, &selection);
    EXPECT_EQ(selection.offsets.size(), static_cast<size_t>(logits.rows + 1));
    EXPECT_EQ(selection.offsets[0], 0);
    EXPECT_EQ(selection.experts.size(), static_cast<size_t>(selection.offsets.back()));
    EXPECT_EQ(selection.weights.size(), selection.experts.size());
    for (int64_t r = 0; r < logits.rows; ++r) {
      const std::vector<Choice> expected = Expected(spec, logits.row(r), logits.cols);
      const int32_t begin = selection.offsets[r];
      EXPECT_EQ(selection.offsets[r + 1] - begin, static_cast<int32_t>(expected.size())) << r;
      if (selection.offsets[r + 1] - begin != static_cast<int32_t>(expected.size())) break;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(selection.experts[begin + i], expected[i].expert) << "row " << r;
        EXPECT_NEAR(selection.weights[begin + i], expected[i].weight,
                    2e-6 * std::fabs(expected[i].weight) + 1e-9)
            << "row " << r;
      }
    }
    return selection.experts.size();
  }
};

TEST_P(GateTest, FollowsTheDefinitionOfEveryScore) {
  for (int64_t experts : {3, 8, 16, 60, 128}) {
    const OwnedMat logits(9, experts, 7);
    for (Score score : {Score::kSoftmax, Score::kSigmoid, Score::kLogits}) {
      for (bool normalize : {false, true}) {
        ExpectRight({.score = score, .top_k = 3, .normalize = normalize}, logits.mat);
        ExpectRight({.score = score, .top_k = 2, .normalize = normalize, .scale = 2.5f},
                    logits.mat);
      }
    }
    ExpectRight({.score = Score::kSparseMixer, .top_k = 2}, logits.mat);
  }
}

TEST_P(GateTest, TheBiasChoosesButDoesNotWeigh) {
  const OwnedMat logits(9, 32, 8);
  const std::vector<float> bias = testing::RandomValues(32, 9, 0.5f);
  for (Score score : {Score::kSoftmax, Score::kSigmoid}) {
    ExpectRight({.score = score, .top_k = 6, .bias = bias}, logits.mat);
    ExpectRight({.score = score, .top_k = 6, .bias = bias, .normalize = false}, logits.mat);
  }
}

TEST_P(GateTest, OnlyExpertsOfTheBestGroupsAreChosen) {
  const OwnedMat logits(20, 48, 10);
  const std::vector<float> bias = testing::RandomValues(48, 11, 0.3f);
  for (GroupScore group_score : {GroupScore::kBest, GroupScore::kBestTwo}) {
    for (int top_groups : {1, 2, 5, 8}) {
      ExpectRight({.score = Score::kSoftmax,
                   .top_k = 6,
                   .groups = 8,
                   .top_groups = top_groups,
                   .group_score = group_score,
                   .normalize = false,
                   .scale = 16},
                  logits.mat);
      ExpectRight({.score = Score::kSigmoid,
                   .top_k = 6,
                   .bias = bias,
                   .groups = 8,
                   .top_groups = top_groups,
                   .group_score = group_score,
                   .sum_epsilon = 1e-20f},
                  logits.mat);
    }
  }
}

TEST_P(GateTest, EqualGroupsGoToTheLowerIndex) {
  const OwnedMat logits = MatOf(1, {0, 1, 0, 1, 0, 1, 0, 1});
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 4, .groups = 4, .top_groups = 2}, logits.mat, &selection);
  EXPECT_EQ(selection.experts, (std::vector<int32_t>{1, 3, 0, 2}));
}

TEST_P(GateTest, TopPChoosesAsFewAsReachIt) {
  OwnedMat logits(40, 16, 12);
  for (float& x : logits.values) x *= 2;
  const size_t few = ExpectRight({.top_k = 8, .top_p = 0.3f}, logits.mat);
  const size_t some = ExpectRight({.top_k = 8, .top_p = 0.7f, .normalize = false}, logits.mat);
  const size_t all = ExpectRight({.top_k = 8, .top_p = 1.5f}, logits.mat);
  EXPECT_GE(few, 40u);
  EXPECT_LT(few, some);
  EXPECT_LT(some, all);
  EXPECT_EQ(all, 320u);
  EXPECT_EQ(ExpectRight({.top_k = 8, .top_p = 1e-9f}, logits.mat), 40u);
}

TEST_P(GateTest, IdleExpertsTakePlacesButAreNotInTheSelection) {
  const OwnedMat logits(60, 12, 16);
  for (Score score : {Score::kSoftmax, Score::kSigmoid, Score::kLogits}) {
    for (bool normalize : {false, true}) {
      const size_t entries =
          ExpectRight({.score = score, .top_k = 4, .normalize = normalize, .idle = 5}, logits.mat);
      EXPECT_GT(entries, 60u);
      EXPECT_LT(entries, 240u);
    }
  }
  ExpectRight({.top_k = 8, .top_p = 0.6f, .idle = 5}, logits.mat);
  ExpectRight({.top_k = 3, .scale = 2.5f, .idle = 2}, logits.mat);
}

// AdaMoE's (Zeng et al. 2024, section 3.2): softmax over all, the best two, and
// what is left of them divided by its sum.
TEST_P(GateTest, NullExpertsLeaveTheWeightsOfTheOthersSummingToOne) {
  const float log2 = std::log(2.0f), log3 = std::log(3.0f), log4 = std::log(4.0f);
  // Two experts, two null experts.
  const OwnedMat logits =
      MatOf(4, {log4, log3, log2, 0, log3, 0, log4, log2, 0, 0, log4, log3, log2, log4, 0, 0});
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 2, .idle = 2}, logits.mat, &selection);
  EXPECT_EQ(selection.offsets, (std::vector<int32_t>{0, 2, 3, 3, 5}));
  EXPECT_EQ(selection.experts, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  const double weights[] = {4.0 / 7, 3.0 / 7, 1, 4.0 / 6, 2.0 / 6};
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(selection.weights[i], weights[i], 1e-6) << i;

  // Not normalised they keep their part of the whole, 10 and 8.
  one_->SelectExperts({.top_k = 2, .normalize = false, .idle = 2}, logits.mat, &selection);
  const double parts[] = {0.4, 0.3, 0.3, 0.5, 0.25};
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(selection.weights[i], parts[i], 1e-6) << i;
}

TEST_P(GateTest, OnlyIdleExpertsChosenIsAnEmptyRow) {
  const OwnedMat logits = MatOf(2, {0, 0, 0, 9, 0, 0, 9, 8});
  ExpertSelection selection;
  for (Score score : {Score::kSoftmax, Score::kSigmoid, Score::kLogits, Score::kSparseMixer}) {
    one_->SelectExperts({.score = score, .top_k = 1, .idle = 2}, logits.mat, &selection);
    EXPECT_EQ(selection.offsets, (std::vector<int32_t>{0, 0, 0}));
    EXPECT_TRUE(selection.experts.empty());
  }
}

// MoE++'s (Jin et al. 2024, equations 4 and 5), worked out by hand.
TEST_P(GateTest, WeightlessExpertsAddTheInputAndTheirConstants) {
  const OwnedMat x = MatOf(3, {1, 2, 3, 10, 20, 30, -1, 0, 1});
  const OwnedMat constants = MatOf(2, {100, 200, 300, 1, 1, 1});
  // Half and half; a quarter of the input; three quarters of it.
  const float log3 = std::log(3.0f);
  const OwnedMat mix = MatOf(3, {0, 0, 0, log3, 5, 5, 0, 0, log3, 0, 0, 0});
  // Experts 4 and 5 are constants, 6 and 7 copies.
  ExpertSelection selection{{0, 2, 3, 6}, {4, 5, 6, 4, 7, 5}, {1, 2, 0.5f, 1, 3, 1}};
  OwnedMat y = MatOf(3, {0, 0, 0, 1, 1, 1, 0, 0, 0});
  const WeightlessExperts experts{
      4, {DType::kF32, 2, 3, reinterpret_cast<const std::byte*>(constants.mat.data)}};
  one_->AddWeightless(experts, selection, mix.mat, x.mat, y.mat);
  // Constants 0 and, twice, 1; half of a copy; constant 0, three copies, constant 1.
  const float rows[3][3] = {{50.5f + 2 * 1, 101 + 2 * 1.25f, 151.5f + 2 * 1.5f},
                            {1 + 5, 1 + 10, 1 + 15},
                            {24.25f - 3 + 0, 50 + 0 + 0.5f, 75.75f + 3 + 1}};
  for (int i = 0; i < 9; ++i) EXPECT_NEAR(y.mat.data[i], rows[i / 3][i % 3], 1e-4) << i;
}

TEST_P(GateTest, ASmallSumIsRaisedToTheLeast) {
  const OwnedMat logits = MatOf(2, {-9, -10, -8, -30, 2, 1, 3, 0});
  ExpectRight({.score = Score::kSigmoid, .top_k = 2, .least_sum = 0.01f}, logits.mat);
  ExpectRight({.score = Score::kSigmoid, .top_k = 2, .sum_epsilon = 0.25f}, logits.mat);
}

TEST_P(GateTest, TheSparseMixerWeighsAmongScoresNearTheChosen) {
  // Near: within 2% of the larger magnitude. Rows: none near, some near, negative,
  // equal, and the chosen first near the second.
  const OwnedMat logits = MatOf(
      5, {5, 1, 2, 3, 5, 4.95f, 4.92f, 1, -5, -5.05f, -5.2f, -9, 0, 0, 0, 0, 4, 4.05f, 4.1f, 0});
  for (float jitter : {0.01f, 0.1f, 1.0f}) {
    ExpectRight({.score = Score::kSparseMixer, .top_k = 2, .jitter = jitter}, logits.mat);
  }
  ExpertSelection selection;
  one_->SelectExperts({.score = Score::kSparseMixer, .top_k = 2}, logits.mat, &selection);
  EXPECT_EQ(selection.weights[0], 1);  // no other is near
  EXPECT_EQ(selection.weights[1], 1);
  EXPECT_NEAR(selection.weights[2], 1 / (1 + std::exp(-0.05) + std::exp(-0.08)), 1e-6);
  EXPECT_NEAR(selection.weights[3], 1 / (1 + std::exp(-0.03)), 1e-6);
}

TEST_P(GateTest, NormalizedWeightsSumToOne) {
  const OwnedMat logits(5, 32, 8);
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 8, .normalize = true}, logits.mat, &selection);
  for (int r = 0; r < 5; ++r) {
    const float* weights = selection.weights.data() + 8 * r;
    EXPECT_NEAR(std::accumulate(weights, weights + 8, 0.0), 1, 1e-6);
  }
}

TEST_P(GateTest, EqualScoresGoToTheLowerIndex) {
  const OwnedMat logits = MatOf(1, {1, 2, 1, 2, 2, 0});
  for (Score score : {Score::kSoftmax, Score::kSigmoid, Score::kLogits, Score::kSparseMixer}) {
    ExpertSelection selection;
    one_->SelectExperts({.score = score, .top_k = 4}, logits.mat, &selection);
    EXPECT_EQ(selection.experts, (std::vector<int32_t>{1, 3, 4, 0}));
  }
}

TEST_P(GateTest, NamesDifferentExpertsEvenForNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  const OwnedMat logits = MatOf(
      5, {NAN,      1,        NAN, 3, NAN,       NAN,       NAN,       NAN,      1, 2, 3, NAN,  //
          infinity, infinity, 0,   1, -infinity, -infinity, -infinity, -infinity});
  for (Score score : {Score::kSoftmax, Score::kSigmoid, Score::kLogits, Score::kSparseMixer}) {
    for (int top_groups : {1, 2}) {
      ExpertSelection selection;
      one_->SelectExperts({.score = score,
                           .top_k = 4,
                           .bias = {1, 2, 3, 4},
                           .groups = 2,
                           .top_groups = top_groups,
                           .group_score = GroupScore::kBestTwo},
                          logits.mat, &selection);
      ASSERT_EQ(selection.experts.size(), 20u);
      for (int r = 0; r < 5; ++r) {
        const auto row = selection.experts.begin() + 4 * r;
        std::sort(row, row + 4);
        EXPECT_EQ(std::vector<int32_t>(row, row + 4), (std::vector<int32_t>{0, 1, 2, 3})) << r;
      }
    }
  }
}

TEST_P(GateTest, MoreThanThereAreIsAllOfThem) {
  const OwnedMat logits(3, 4, 13);
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 9}, logits.mat, &selection);
  EXPECT_EQ(selection.offsets, (std::vector<int32_t>{0, 4, 8, 12}));
}

TEST_P(GateTest, ARowsChoiceDoesNotDependOnTheOthersOrThreads) {
  const OwnedMat logits(400, 64, 14);
  const std::vector<float> bias = testing::RandomValues(64, 15, 0.2f);
  const GateSpec specs[] = {
      {.top_k = 8, .top_p = 0.4f},
      {.score = Score::kSigmoid, .top_k = 6, .bias = bias, .groups = 8, .top_groups = 3},
      {.score = Score::kLogits, .top_k = 4},
      {.top_k = 8, .top_p = 0.5f, .idle = 20},
      {.score = Score::kSparseMixer, .top_k = 2},
  };
  for (const GateSpec& spec : specs) {
    ExpertSelection all, one;
    two_->SelectExperts(spec, logits.mat, &all);
    for (int r = 0; r < 400; ++r) {
      one_->SelectExperts(spec, {logits.mat.row(r), 1, 64}, &one);
      const int32_t begin = all.offsets[r], end = all.offsets[r + 1];
      ASSERT_EQ(one.experts, std::vector<int32_t>(&all.experts[begin], &all.experts[end]));
      ASSERT_EQ(one.weights, std::vector<float>(&all.weights[begin], &all.weights[end]));
    }
  }
}

HOSTLER_FOR_EVERY_ISA(GateTest);

}  // namespace
}  // namespace hostler
