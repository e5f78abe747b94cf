// How good a router's scores are, given what each model really answered.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hostler {

struct TwoModelMetrics {
  double apgr = 0;  // area under the performance gap recovered (RouteLLM)
  double auc = 0;   // the same as quality
  // The least share of strong calls, percent, that recovers half and 80 % of
  // the gap, and that has 95 % of the strong model's quality; NaN: none does.
  double cpt50 = 0, cpt80 = 0, f95 = 0;
};

// Rows go to the strong model by score, the highest first; equal scores in
// proportion. All spans are of one length, at least 1. NaN where both models
// are equally good.
TwoModelMetrics MeasureTwoModels(std::span<const double> weak, std::span<const double> strong,
                                 std::span<const double> score);

// Cells of [rows, models], row-major.
struct RouteTable {
  size_t models = 0;
  std::vector<double> quality = {};    // true, 0 … 1
  std::vector<double> cost = {};       // true, USD
  std::vector<double> predicted = {};  // quality
  std::vector<double> guessed = {};    // cost

  size_t rows() const { return models == 0 ? 0 : quality.size() / models; }
};

struct CostQuality {
  double cost = 0, quality = 0;
};

// For each λ (0, 160 from 0.02·unit to 2000·unit, and infinite) the mean true
// cost and quality of argmax λ·predicted − guessed.
std::vector<CostQuality> SweepWillingness(const RouteTable& table, double unit);

// The upper concave hull that never falls, from left to right.
std::vector<CostQuality> Hull(std::vector<CostQuality> points);

// Flat to the right of the hull; left of it its first point's quality.
double HullAt(std::span<const CostQuality> hull, double cost);
// Mean height from `low` to `high`; its height at `low` when they are equal.
double HullMean(std::span<const CostQuality> hull, double low, double high);
// The least cost at which `quality` is reached, NaN: it is not.
double CostToReach(std::span<const CostQuality> hull, double quality);

// What is known of single models from training, for a router that looks at no
// prompt.
struct SingleModels {
  std::vector<double> quality, cost;  // means of train
  double unit = 0;                    // mean cost of all cells of train
};
SingleModels MeasureSingles(const RouteTable& table);

struct ManyModelMetrics {
  double aiq = 0, aiq_code = 0;
  double lead = 0;           // over mixing single models at random
  double oracle_share = 0;   // of the oracle's lead; NaN: it has none
  double cost_to_match = 0;  // of the best single model's cost; NaN: never
  std::vector<CostQuality> hull;
};
ManyModelMetrics MeasureManyModels(const RouteTable& table, const SingleModels& train);

// Over all cells, predictions clipped to 0 … 1; ten bins of equal width.
struct Calibration {
  double brier = 0, ece = 0;
};
Calibration MeasureCalibration(std::span<const double> quality, std::span<const double> predicted);

struct Interval {
  double low = 0, high = 0;
};
// The middle 95 % of values, which are sorted.
Interval MiddleInterval(std::vector<double> values);
// Row numbers drawn with replacement; the same for the same seed.
std::vector<size_t> Resample(size_t rows, uint64_t seed);

}  // namespace hostler
