#include "router/quality/route_metrics.h"

#include <cmath>

#include "gtest/gtest.h"

namespace hostler {
namespace {

const std::vector<double> kWeak = {1, 1, 0, 0, 1, 0, 1, 0, 1, 1};
const std::vector<double> kStrong = {1, 1, 1, 1, 1, 0, 1, 1, 0, 1};

RouteTable FourRows() {
  RouteTable table{.models = 3,
                   .quality = {1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0},
                   .cost = {},
                   .predicted = {.8, .9, .95, .3, .7, .8, .2, .4, .7, .6, .5, .6},
                   .guessed = {}};
  for (const double tokens : {100, 200, 100, 400}) {
    for (const double price : {0.2, 0.6, 1.2}) table.cost.push_back(tokens * price);
  }
  table.guessed = table.cost;
  return table;
}

TEST(TwoModels, MatchTheWorkedExampleWithTies) {
  const auto m =
      MeasureTwoModels(kWeak, kStrong, std::vector<double>{.1, .2, .9, .7, .3, .8, .2, .6, .7, .1});
  EXPECT_NEAR(m.apgr, 0.75, 1e-9);
  EXPECT_NEAR(m.auc, 0.75, 1e-9);
  EXPECT_NEAR(m.cpt50, 10, 1e-6);
  EXPECT_NEAR(m.cpt80, 46, 1e-6);
  EXPECT_NEAR(m.f95, 46, 1e-6);
}

TEST(TwoModels, AConstantScoreIsTheDiagonal) {
  const auto m = MeasureTwoModels(kWeak, kStrong, std::vector<double>(10, 0.3));
  EXPECT_NEAR(m.apgr, 0.5, 1e-9);
  EXPECT_NEAR(m.cpt50, 50, 1e-6);
  EXPECT_NEAR(m.cpt80, 80, 1e-6);
}

TEST(TwoModels, EquallyGoodOnesHaveNoGap) {
  const auto m = MeasureTwoModels(kWeak, kWeak, std::vector<double>(10, 0.3));
  EXPECT_TRUE(std::isnan(m.apgr));
  EXPECT_EQ(m.f95, 0);
}

TEST(ManyModels, MatchTheWorkedExample) {
  const RouteTable table = FourRows();
  // The README's three settings.
  const std::vector<CostQuality> hull = Hull({{40, .5}, {95, .75}, {140, 1}});
  ASSERT_EQ(hull.size(), 2u);
  EXPECT_NEAR(HullMean(hull, 40, 240), 0.875, 1e-9);
  EXPECT_NEAR(HullMean(hull, 40, 240) * 200 / 240, 0.729, 1e-3);
  EXPECT_NEAR(HullAt(hull, 120), 0.9, 1e-9);
  EXPECT_NEAR(CostToReach(hull, 0.75) / 240, 0.375, 1e-9);

  const ManyModelMetrics m = MeasureManyModels(table, MeasureSingles(table));
  EXPECT_NEAR(m.aiq, 0.88125, 1e-9);  // of the full sweep
  EXPECT_NEAR(m.aiq - m.lead, 0.625, 1e-9);
  RouteTable oracle = table;
  oracle.predicted = table.quality;
  const ManyModelMetrics best = MeasureManyModels(oracle, MeasureSingles(table));
  EXPECT_NEAR(best.aiq, 0.921875, 1e-9);
  EXPECT_NEAR(best.oracle_share, 1, 1e-9);
  EXPECT_NEAR(0.25 / best.lead, 0.842, 1e-3);
}

TEST(ManyModels, OneModelLeadsNobody) {
  const RouteTable table{
      .models = 1, .quality = {1, 0}, .cost = {2, 4}, .predicted = {.5, .5}, .guessed = {2, 4}};
  const ManyModelMetrics m = MeasureManyModels(table, MeasureSingles(table));
  EXPECT_NEAR(m.aiq, 0.5, 1e-9);
  EXPECT_NEAR(m.lead, 0, 1e-9);
  EXPECT_TRUE(std::isnan(m.oracle_share));
  EXPECT_NEAR(m.cost_to_match, 1, 1e-9);
}

TEST(Calibration, CountsBinsAndSquares) {
  const auto c =
      MeasureCalibration(std::vector<double>{1, 0, 1, 1}, std::vector<double>{.5, .5, 1.5, .75});
  EXPECT_NEAR(c.brier, (0.25 + 0.25 + 0 + 0.0625) / 4, 1e-9);
  EXPECT_NEAR(c.ece, 0.25 / 4, 1e-9);
}

TEST(Bootstrap, IsRepeatableAndInterpolates) {
  EXPECT_EQ(Resample(100, 3), Resample(100, 3));
  EXPECT_NE(Resample(100, 3), Resample(100, 4));
  const Interval middle = MiddleInterval({4, 0, 2, 1, 3});
  EXPECT_NEAR(middle.low, 0.1, 1e-9);
  EXPECT_NEAR(middle.high, 3.9, 1e-9);
}

}  // namespace
}  // namespace hostler
