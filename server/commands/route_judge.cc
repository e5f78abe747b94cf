#include "server/commands/route_judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fmt/format.h"
#include "server/json_number.h"

namespace hostler {
namespace {

RouteTable Rows(const RouteTable& table, const std::vector<size_t>& rows) {
  RouteTable out{.models = table.models};
  const auto take = [&](const std::vector<double>& from, std::vector<double>* to) {
    to->reserve(from.size());
    for (const size_t row : rows) {
      to->insert(to->end(), from.begin() + row * table.models,
                 from.begin() + (row + 1) * table.models);
    }
  };
  take(table.quality, &out.quality);
  take(table.cost, &out.cost);
  take(table.predicted, &out.predicted);
  take(table.guessed, &out.guessed);
  return out;
}

TwoModelMetrics MeasurePair(const RouteTable& table, size_t strong) {
  std::vector<double> w, s, score;
  for (size_t i = 0; i < table.rows(); ++i) {
    w.push_back(table.quality[2 * i + 1 - strong]);
    s.push_back(table.quality[2 * i + strong]);
    score.push_back(table.predicted[2 * i + strong] - table.predicted[2 * i + 1 - strong]);
  }
  return MeasureTwoModels(w, s, score);
}

Json IntervalJson(const std::vector<double>& values) {
  const Interval interval = MiddleInterval(values);
  return {NumberOrNull(interval.low), NumberOrNull(interval.high)};
}

}  // namespace

RouteTable TrueTable(const RoutingSet& set) {
  RouteTable table{.models = set.models.size()};
  for (const RoutingRow& row : set.rows) {
    for (size_t m = 0; m < set.models.size(); ++m) {
      table.quality.push_back(row.quality[m]);
      table.cost.push_back(set.Cost(row, m, row.tokens.empty() ? 0 : row.tokens[m]));
    }
  }
  return table;
}

absl::StatusOr<RouteTable> PredictSet(const QualityPredictor& predictor, const RoutingSet& set) {
  std::vector<size_t> places;
  for (const std::string& model : set.models) {
    const auto& known = predictor.models();
    const auto found = std::find(known.begin(), known.end(), model);
    if (found == known.end()) {
      return absl::FailedPreconditionError(
          fmt::format("the router does not know {}, a model of {}", model, set.name));
    }
    places.push_back(found - known.begin());
  }
  RouteTable table = TrueTable(set);
  std::vector<QualityEstimate> out(predictor.models().size());
  for (const RoutingRow& row : set.rows) {
    predictor.Predict({.text = row.prompt, .embedding = row.embedding}, out);
    for (size_t m = 0; m < places.size(); ++m) {
      const QualityEstimate& estimate = out[places[m]];
      table.predicted.push_back(estimate.quality);
      table.guessed.push_back(set.Cost(row, m, row.tokens.empty() ? 0 : estimate.output_tokens));
    }
  }
  return table;
}

nlohmann::ordered_json JudgeSet(const RoutingSet& set, const RouteTable& table,
                                const SingleModels& train, int resamples) {
  Json out{{"set", set.name}, {"rows", table.rows()}, {"models", table.models}};
  const Calibration calibration = MeasureCalibration(table.quality, table.predicted);
  const bool pair = table.models == 2;
  const size_t strong = pair && train.quality[1] > train.quality[0];
  const double total = std::accumulate(table.cost.begin(), table.cost.end(), 0.0);
  const bool priced = total > 0;
  if (pair) {
    const TwoModelMetrics m = MeasurePair(table, strong);
    out.update({{"apgr", NumberOrNull(m.apgr)},
                {"auc", NumberOrNull(m.auc)},
                {"cpt50", NumberOrNull(m.cpt50)},
                {"cpt80", NumberOrNull(m.cpt80)},
                {"f95", NumberOrNull(m.f95)}});
  }
  if (priced) {
    const ManyModelMetrics m = MeasureManyModels(table, train);
    out.update({{"aiq", NumberOrNull(m.aiq)},
                {"aiq_code", NumberOrNull(m.aiq_code)},
                {"lead", NumberOrNull(m.lead)},
                {"oracle_share", NumberOrNull(m.oracle_share)},
                {"cost_to_match", NumberOrNull(m.cost_to_match)}});
    for (const CostQuality& point : m.hull) out["hull"].push_back({point.cost, point.quality});
  }
  out["ece"] = calibration.ece;
  out["brier"] = calibration.brier;
  std::vector<double> apgr, aiq, lead;
  for (int n = 0; n < resamples; ++n) {
    const RouteTable drawn = Rows(table, Resample(table.rows(), n));
    if (pair) {
      apgr.push_back(MeasurePair(drawn, strong).apgr);
    } else if (priced) {
      const ManyModelMetrics m = MeasureManyModels(drawn, train);
      aiq.push_back(m.aiq);
      lead.push_back(m.lead);
    }
  }
  if (!apgr.empty()) out["apgr_interval"] = IntervalJson(apgr);
  if (!aiq.empty()) out["aiq_interval"] = IntervalJson(aiq);
  if (!lead.empty()) out["lead_interval"] = IntervalJson(lead);
  return out;
}

std::string JudgementText(const nlohmann::ordered_json& judgements) {
  std::string out =
      fmt::format("{:<14}{:>7}{:>8}{:>7}{:>7}{:>7}{:>8}{:>9}{:>9}{:>8}{:>8}\n", "set", "rows",
                  "APGR", "CPT50", "CPT80", "F95", "AIQ", "lead", "oracle", "ECE", "Brier");
  for (const Json& one : judgements) {
    const auto cell = [&](const char* key, int width, int digits, double factor = 1) {
      const bool known = one.contains(key) && one[key].is_number();
      out += known ? fmt::format("{:>{}.{}f}", one[key].get<double>() * factor, width, digits)
                   : fmt::format("{:>{}}", "-", width);
    };
    out += fmt::format("{:<14}{:>7}", one["set"].get<std::string>(), one["rows"].get<size_t>());
    cell("apgr", 8, 4);
    cell("cpt50", 7, 1);
    cell("cpt80", 7, 1);
    cell("f95", 7, 1);
    cell("aiq", 8, 4);
    cell("lead", 9, 4);
    cell("oracle_share", 8, 1, 100);
    out += '%';
    cell("ece", 8, 4);
    cell("brier", 8, 4);
    out += '\n';
  }
  return out;
}

std::string JudgementSvg(const nlohmann::ordered_json& judgements) {
  constexpr int kWidth = 320, kHeight = 220, kLeft = 48, kTop = 28, kPlot = 240, kTall = 150;
  std::string panels;
  int count = 0;
  for (const Json& one : judgements) {
    if (!one.contains("hull")) continue;
    const auto& hull = one["hull"];
    const double most = std::max(hull.back()[0].get<double>(), 1e-12);
    const double low = hull.front()[1].get<double>(), high = hull.back()[1].get<double>();
    std::string line;
    for (const Json& point : hull) {
      const double y = high > low ? (point[1].get<double>() - low) / (high - low) : 0.5;
      line += fmt::format("{:.1f},{:.1f} ", kLeft + point[0].get<double>() / most * kPlot,
                          kTop + (1 - y) * kTall);
    }
    std::string name;
    for (const char c : one["set"].get<std::string>()) {
      name += c == '<' || c == '&' || c == '>' || static_cast<unsigned char>(c) < 32 ? '?' : c;
    }
    panels += fmt::format(
        "<g transform=\"translate({},0)\"><text x=\"{}\" y=\"16\">{}</text>"
        "<path d=\"M{} {}v{}h{}\" fill=\"none\" stroke=\"#888\"/>"
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>"
        "<text x=\"4\" y=\"{}\">{:.2f}</text><text x=\"4\" y=\"{}\">{:.2f}</text>"
        "<text x=\"{}\" y=\"{}\">to {:.3g} USD per 1,000 queries</text></g>\n",
        kWidth * count++, kLeft, name, kLeft, kTop, kTall, kPlot, line, kTop + 4, high,
        kTop + kTall, low, kLeft, kTop + kTall + 20, most * 1000);
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" font-family="
      "\"sans-serif\" font-size=\"12\"><rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n{2}"
      "</svg>\n",
      kWidth * std::max(count, 1), kHeight, panels);
}

}  // namespace hostler
