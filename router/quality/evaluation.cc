#include "router/quality/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace hostler {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr int kShares = 10;  // steps of the share of strong calls

// The gain of sending the first share of rows to the strong model, summed, as
// corners of a piecewise line: (rows, gain).
std::vector<CostQuality> GainCurve(std::span<const double> weak, std::span<const double> strong,
                                   std::span<const double> score) {
  std::vector<size_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return score[a] > score[b]; });
  std::vector<CostQuality> corners = {{0, 0}};
  double gain = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    gain += strong[order[i]] - weak[order[i]];
    const bool tied = i + 1 < order.size() && score[order[i + 1]] == score[order[i]];
    if (!tied) corners.push_back({static_cast<double>(i + 1), gain});
  }
  return corners;
}

double LineAt(std::span<const CostQuality> line, double x) {
  size_t i = 1;
  while (i + 1 < line.size() && line[i].cost < x) ++i;
  const CostQuality a = line[i - 1], b = line[i];
  return a.quality + (b.quality - a.quality) * (x - a.cost) / (b.cost - a.cost);
}

// The first x at which the line is at least y.
double FirstReach(std::span<const CostQuality> line, double y) {
  if (line[0].quality >= y) return line[0].cost;
  for (size_t i = 1; i < line.size(); ++i) {
    if (line[i].quality < y) continue;
    const CostQuality a = line[i - 1], b = line[i];
    return a.cost + (y - a.quality) / (b.quality - a.quality) * (b.cost - a.cost);
  }
  return kNone;
}

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / values.size();
}

}  // namespace

TwoModelMetrics MeasureTwoModels(std::span<const double> weak, std::span<const double> strong,
                                 std::span<const double> score) {
  const double rows = weak.size(), low = Mean(weak), high = Mean(strong), gap = high - low;
  std::vector<CostQuality> exact = GainCurve(weak, strong, score);
  TwoModelMetrics out;
  for (CostQuality& corner : exact) {
    corner.cost *= 100 / rows;
    corner.quality /= rows;
  }
  out.f95 = FirstReach(exact, 0.95 * high - low);
  if (gap == 0) {
    out.apgr = out.auc = out.cpt50 = out.cpt80 = kNone;
    return out;
  }
  std::vector<CostQuality> recovered;
  for (int k = 0; k <= kShares; ++k) {
    const double share = 100.0 * k / kShares;
    recovered.push_back({share, LineAt(exact, share) / gap});
    if (k > 0) out.apgr += (recovered[k - 1].quality + recovered[k].quality) / 2 / kShares;
  }
  out.auc = low + gap * out.apgr;
  // A hair less, for sums that differ in their last bit.
  out.cpt50 = FirstReach(recovered, 0.5 - 1e-12);
  out.cpt80 = FirstReach(recovered, 0.8 - 1e-12);
  return out;
}

std::vector<CostQuality> SweepWillingness(const RouteTable& table, double unit) {
  constexpr int kSteps = 160;
  const size_t models = table.models, rows = table.rows();
  std::vector<CostQuality> points;
  for (int step = -1; step <= kSteps; ++step) {
    const double worth = step < 0 ? 0 : 0.02 * unit * std::pow(1e5, step / (kSteps - 1.0));
    CostQuality sum;
    for (size_t i = 0; i < rows; ++i) {
      const double* p = table.predicted.data() + i * models;
      const double* c = table.guessed.data() + i * models;
      size_t best = 0;
      for (size_t m = 1; m < models; ++m) {
        const bool better = step == kSteps ? p[m] > p[best] || (p[m] == p[best] && c[m] < c[best])
                                           : worth * p[m] - c[m] > worth * p[best] - c[best];
        if (better) best = m;
      }
      sum.cost += table.cost[i * models + best];
      sum.quality += table.quality[i * models + best];
    }
    points.push_back({sum.cost / rows, sum.quality / rows});
  }
  return points;
}

std::vector<CostQuality> Hull(std::vector<CostQuality> points) {
  std::sort(points.begin(), points.end(), [](const CostQuality& a, const CostQuality& b) {
    return a.cost != b.cost ? a.cost < b.cost : a.quality > b.quality;
  });
  std::vector<CostQuality> hull;
  for (const CostQuality& point : points) {
    if (!hull.empty() && point.quality <= hull.back().quality) continue;
    while (hull.size() >= 2) {
      const CostQuality a = hull[hull.size() - 2], b = hull.back();
      if ((b.quality - a.quality) * (point.cost - a.cost) >
          (point.quality - a.quality) * (b.cost - a.cost)) {
        break;
      }
      hull.pop_back();
    }
    hull.push_back(point);
  }
  return hull;
}

double HullAt(std::span<const CostQuality> hull, double cost) {
  if (cost <= hull.front().cost) return hull.front().quality;
  if (cost >= hull.back().cost) return hull.back().quality;
  return LineAt(hull, cost);
}

double HullMean(std::span<const CostQuality> hull, double low, double high) {
  if (!(high > low)) return HullAt(hull, low);
  std::vector<double> at = {low, high};
  for (const CostQuality& point : hull) {
    if (point.cost > low && point.cost < high) at.push_back(point.cost);
  }
  std::sort(at.begin(), at.end());
  double area = 0;
  for (size_t i = 1; i < at.size(); ++i) {
    area += (at[i] - at[i - 1]) * (HullAt(hull, at[i]) + HullAt(hull, at[i - 1])) / 2;
  }
  return area / (high - low);
}

double CostToReach(std::span<const CostQuality> hull, double quality) {
  return FirstReach(hull, quality - 1e-12);
}

SingleModels MeasureSingles(const RouteTable& table) {
  SingleModels out;
  const size_t rows = table.rows();
  out.quality.assign(table.models, 0);
  out.cost.assign(table.models, 0);
  for (size_t j = 0; j < table.quality.size(); ++j) {
    out.quality[j % table.models] += table.quality[j] / rows;
    out.cost[j % table.models] += table.cost[j] / rows;
  }
  out.unit = Mean(out.cost);
  return out;
}

ManyModelMetrics MeasureManyModels(const RouteTable& table, const SingleModels& train) {
  const SingleModels here = MeasureSingles(table);
  const auto [least, most] = std::minmax_element(here.cost.begin(), here.cost.end());
  const auto area = [&](const std::vector<CostQuality>& hull) {
    return HullMean(hull, *least, *most);
  };
  ManyModelMetrics out;
  // Always taking the cheapest is a choice as well: where a router cannot be had as
  // cheaply, cost that it did not pay must not count as if its quality were had for it.
  std::vector<CostQuality> points = SweepWillingness(table, train.unit);
  const size_t cheapest = least - here.cost.begin();
  points.push_back({*least, here.quality[cheapest]});
  out.hull = Hull(std::move(points));
  out.aiq = area(out.hull);
  out.aiq_code = *most > 0 ? out.aiq * (*most - *least) / *most : out.aiq;

  std::vector<CostQuality> singles;
  for (size_t m = 0; m < table.models; ++m) singles.push_back({train.cost[m], train.quality[m]});
  std::vector<CostQuality> mixed;
  for (const CostQuality& corner : Hull(singles)) {
    for (size_t m = 0; m < table.models; ++m) {
      if (train.cost[m] == corner.cost && train.quality[m] == corner.quality) {
        mixed.push_back({here.cost[m], here.quality[m]});
      }
    }
  }
  const double mixing = area(Hull(mixed));
  out.lead = out.aiq - mixing;
  RouteTable oracle = table;
  oracle.predicted = table.quality;
  oracle.guessed = table.cost;
  const double most_lead = area(Hull(SweepWillingness(oracle, train.unit))) - mixing;
  out.oracle_share = most_lead > 1e-12 ? out.lead / most_lead : kNone;
  const size_t best =
      std::max_element(train.quality.begin(), train.quality.end()) - train.quality.begin();
  out.cost_to_match = CostToReach(out.hull, here.quality[best]) / here.cost[best];
  return out;
}

Calibration MeasureCalibration(std::span<const double> quality, std::span<const double> predicted) {
  constexpr int kBins = 10;
  double surplus[kBins] = {};
  Calibration out;
  for (size_t j = 0; j < quality.size(); ++j) {
    const double p = std::clamp(predicted[j], 0.0, 1.0);
    out.brier += (p - quality[j]) * (p - quality[j]);
    surplus[std::min(static_cast<int>(p * kBins), kBins - 1)] += quality[j] - p;
  }
  for (const double value : surplus) out.ece += std::abs(value);
  out.brier /= quality.size();
  out.ece /= quality.size();
  return out;
}

Interval MiddleInterval(std::vector<double> values) {
  if (values.empty()) return {kNone, kNone};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * (values.size() - 1);
    const size_t i = static_cast<size_t>(place);
    const size_t next = std::min(i + 1, values.size() - 1);
    return values[i] + (place - i) * (values[next] - values[i]);
  };
  return {at(0.025), at(0.975)};
}

std::vector<size_t> Resample(size_t rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<size_t> out(rows);
  for (size_t& row : out) row = random() % rows;
  return out;
}

}  // namespace hostler
