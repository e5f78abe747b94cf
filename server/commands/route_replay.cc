#include "server/commands/route_replay.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>
#include <utility>

#include "engine/base/checksum.h"
#include "fmt/format.h"
#include "router/policy/limits.h"
#include "router/quality/evaluation.h"
#include "server/json_number.h"

namespace hostler {
namespace {

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? NAN : sum / double(values.size());
}

struct Pairs {
  std::vector<double> predicted, observed;

  void Add(double guess, double truth) {
    if (!std::isfinite(guess) || !std::isfinite(truth)) return;
    predicted.push_back(guess);
    observed.push_back(truth);
  }

  Json ToJson() const {
    std::vector<double> errors;
    for (size_t i = 0; i < predicted.size(); ++i) {
      errors.push_back(std::abs(predicted[i] - observed[i]));
    }
    return {{"n", predicted.size()},
            {"predicted", NumberOrNull(Mean(predicted))},
            {"observed", NumberOrNull(Mean(observed))},
            {"mae", NumberOrNull(Mean(errors))}};
  }
};

struct TargetPairs {
  int requests = 0, failed = 0, shadows = 0;
  Pairs cost, latency, quality;

  void AddOutcome(const Decision& decision, const RouteOutcome& outcome) {
    const CandidateReport* report = decision.Find(outcome.target);
    if (report == nullptr) return;
    cost.Add(report->cost_usd, outcome.cost_usd);
    latency.Add(report->latency_s, outcome.timings.total_ms / 1000);
  }
};

// The first decision with each id, of an answer or its shadow: the one that feedback means.
std::unordered_map<std::string, size_t> ById(const RouteLog& log) {
  std::unordered_map<std::string, size_t> by_id;
  for (size_t i = 0; i < log.decisions.size(); ++i) by_id.emplace(log.decisions[i].id, i);
  for (const LoggedShadow& shadow : log.shadows) {
    const auto real = by_id.find(shadow.real_id);
    if (real != by_id.end()) by_id.emplace(shadow.id, real->second);
  }
  return by_id;
}

// What a policy's decisions come to.
struct Tally {
  int decisions = 0, matched = 0;
  std::map<std::string, int> by_target;
  std::vector<double> quality, cost;  // predicted
  std::vector<double> scores;         // of judged answers of the chosen target

  void Add(const CandidateReport& chosen, bool answered) {
    ++decisions;
    matched += answered;
    ++by_target[chosen.target];
    if (std::isfinite(chosen.quality)) quality.push_back(chosen.quality);
    if (std::isfinite(chosen.cost_usd)) cost.push_back(chosen.cost_usd);
  }

  Json ToJson() const {
    Json share = Json::object();
    for (const auto& [target, count] : by_target) share[target] = double(count) / decisions;
    const double mean = Mean(scores);
    Json interval = nullptr;
    if (scores.size() > 1) {
      double squares = 0;
      for (const double score : scores) squares += (score - mean) * (score - mean);
      const double n = double(scores.size());
      const double half = 1.96 * std::sqrt(squares / (n - 1) / n);
      interval = {std::max(mean - half, 0.0), std::min(mean + half, 1.0)};
    }
    return {{"decisions", decisions},
            {"share", share},
            {"predicted_quality", NumberOrNull(Mean(quality))},
            {"predicted_cost_usd", NumberOrNull(Mean(cost))},
            {"matched", matched},
            {"judged", scores.size()},
            {"observed_quality", NumberOrNull(mean)},
            {"interval", interval}};
  }
};

// Whether a policy may choose it now, whatever it was allowed to cost then.
bool CouldBeAsked(const CandidateReport& report) {
  const bool dear = report.left_out == kOverBudget || report.left_out == kOverMaxCost;
  return (report.left_out.empty() || dear) && std::isfinite(report.quality);
}

class Replay {
 public:
  Replay(const RouteLog& log, const ReplayOptions& options)
      : log_(log), options_(options), by_id_(ById(log)), choices_(log.decisions.size()) {}

  Json Run() {
    // In the order in which it happened: a decision is logged at its end.
    struct Event {
      double time;
      const LoggedFeedback* feedback;
      size_t decision;
    };
    std::vector<Event> events;
    for (size_t i = 0; i < log_.decisions.size(); ++i) {
      const LoggedDecision& logged = log_.decisions[i];
      events.push_back({logged.time - logged.outcome.timings.total_ms / 1000, nullptr, i});
    }
    for (const LoggedFeedback& feedback : log_.feedback) {
      const auto found = by_id_.find(feedback.id);
      if (found != by_id_.end()) events.push_back({feedback.time, &feedback, found->second});
    }
    std::stable_sort(events.begin(), events.end(),
                     [](const Event& a, const Event& b) { return a.time < b.time; });
    for (const Event& event : events) {
      if (event.feedback == nullptr) {
        Decide(event.decision);
      } else {
        Learn(*event.feedback, event.decision);
      }
    }
    return {{"logged", logged_.ToJson()}, {"replayed", replayed_.ToJson()}};
  }

 private:
  struct VirtualModel {
    std::unique_ptr<Chooser> chooser;
    std::vector<std::string> targets;  // a candidate's index is its place

    int IndexOf(const std::string& target) {
      const auto found = std::find(targets.begin(), targets.end(), target);
      if (found != targets.end()) return int(found - targets.begin());
      targets.push_back(target);
      return int(targets.size()) - 1;
    }
  };

  struct Chosen {
    int index = -1;  // -1: nothing could be chosen
    std::string target;
    std::vector<double> context;
  };

  VirtualModel& Of(const Decision& decision) {
    VirtualModel& model = models_[decision.virtual_model];
    if (model.chooser == nullptr) model.chooser = options_.new_chooser();
    return model;
  }

  void Decide(size_t place) {
    const LoggedDecision& logged = log_.decisions[place];
    VirtualModel& model = Of(logged.decision);
    std::vector<TargetSnapshot> snapshots(logged.decision.candidates.size());
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < snapshots.size(); ++i) {
      const CandidateReport& report = logged.decision.candidates[i];
      snapshots[i].name = report.target;
      if (!CouldBeAsked(report)) continue;
      const auto known = [](double value) { return std::isfinite(value) ? value : 0; };
      candidates.push_back({.target = &snapshots[i],
                            .index = model.IndexOf(report.target),
                            .quality = report.quality,
                            .output_tokens = known(report.output_tokens),
                            .cost_usd = known(report.cost_usd),
                            .first_token_s = known(report.first_token_s),
                            .latency_s = known(report.latency_s),
                            .cached_tokens = report.cached_tokens});
    }
    if (candidates.empty()) return;
    if (const CandidateReport* before = logged.decision.Find(logged.decision.target)) {
      logged_.Add(*before, before->target == logged.outcome.target);
    }
    Limits limits = Stricter(options_.limits, logged.decision.wish);
    if (limits.max_cost.has_value()) {
      limits.max_cost = LeaveOutAbove(*limits.max_cost, &candidates);
    }
    RouteFeatures features;
    features.prompt_tokens = logged.outcome.usage.prompt_tokens;
    features.prompt.text = logged.prompt;
    features.seed = Checksum(logged.id);
    Choice choice = model.chooser->Choose(features, limits, candidates);
    const Candidate& chosen = candidates[size_t(choice.order.front())];
    choices_[place] = {chosen.index, chosen.target->name, std::move(choice.context)};
    replayed_.Add(*logged.decision.Find(chosen.target->name),
                  chosen.target->name == logged.outcome.target);
  }

  void Learn(const LoggedFeedback& feedback, size_t place) {
    const LoggedDecision& logged = log_.decisions[place];
    if (logged.decision.target == feedback.target) logged_.scores.push_back(feedback.score);
    const Chosen& chosen = choices_[place];
    if (chosen.index < 0 || chosen.target != feedback.target) return;
    replayed_.scores.push_back(feedback.score);
    Of(logged.decision).chooser->Learn(chosen.context, chosen.index, feedback.score);
  }

  const RouteLog& log_;
  const ReplayOptions& options_;
  const std::unordered_map<std::string, size_t> by_id_;
  std::vector<Chosen> choices_;  // of the log's decisions
  std::map<std::string, VirtualModel> models_;
  Tally logged_, replayed_;
};

// null as "-".
std::string Cell(const Json& value, int width, const char* form) {
  const std::string text =
      value.is_number() ? fmt::format(fmt::runtime(form), value.get<double>()) : "-";
  return fmt::format("{:>{}}", text, width);
}

void AppendPolicy(const char* name, const Json& policy, std::string* out) {
  *out += fmt::format("\n{}: {} decisions", name, policy["decisions"].get<int>());
  for (const auto& [target, share] : policy["share"].items()) {
    *out += fmt::format(", {} {:.1f} %", target, share.get<double>() * 100);
  }
  *out += fmt::format("\n  predicted quality {}, predicted cost {} USD\n",
                      Cell(policy["predicted_quality"], 0, "{:.4f}"),
                      Cell(policy["predicted_cost_usd"], 0, "{:.4g}"));
  *out += fmt::format("  observed quality {}", Cell(policy["observed_quality"], 0, "{:.4f}"));
  if (policy["interval"].is_array()) {
    *out += fmt::format(" [{:.4f}, {:.4f}]", policy["interval"][0].get<double>(),
                        policy["interval"][1].get<double>());
  }
  *out += fmt::format(", of {} judged answers among the {} whose target it chose\n",
                      policy["judged"].get<int>(), policy["matched"].get<int>());
}

}  // namespace

Json CalibrationJson(const RouteLog& log) {
  std::map<std::string, TargetPairs> targets;
  const auto by_id = ById(log);
  for (const LoggedDecision& logged : log.decisions) {
    TargetPairs& pairs = targets[logged.outcome.target];
    ++pairs.requests;
    if (!logged.outcome.status.ok()) {
      ++pairs.failed;
      continue;
    }
    if (logged.outcome.fallbacks > 0 || logged.outcome.hedged) continue;
    pairs.AddOutcome(logged.decision, logged.outcome);
  }
  for (const LoggedShadow& shadow : log.shadows) {
    const auto real = by_id.find(shadow.real_id);
    if (real == by_id.end() || !shadow.outcome.status.ok()) continue;
    TargetPairs& pairs = targets[shadow.outcome.target];
    ++pairs.shadows;
    pairs.AddOutcome(log.decisions[real->second].decision, shadow.outcome);
  }
  for (const LoggedFeedback& feedback : log.feedback) {
    const auto found = by_id.find(feedback.id);
    if (found == by_id.end()) continue;
    const CandidateReport* report = log.decisions[found->second].decision.Find(feedback.target);
    if (report != nullptr) targets[feedback.target].quality.Add(report->quality, feedback.score);
  }
  Json rows = Json::array();
  for (const auto& [name, pairs] : targets) {
    Json quality = pairs.quality.ToJson();
    if (!pairs.quality.observed.empty()) {
      const Calibration measured =
          MeasureCalibration(pairs.quality.observed, pairs.quality.predicted);
      quality["brier"] = measured.brier;
      quality["ece"] = measured.ece;
    }
    rows.push_back({{"model", name},
                    {"requests", pairs.requests},
                    {"failed", pairs.failed},
                    {"shadows", pairs.shadows},
                    {"cost_usd", pairs.cost.ToJson()},
                    {"latency_s", pairs.latency.ToJson()},
                    {"quality", std::move(quality)}});
  }
  return rows;
}

absl::Status PredictAgain(const QualitySource& source, const std::vector<TargetTerms>& terms,
                          RouteLog* log) {
  std::map<std::string, size_t> columns;
  for (size_t m = 0; m < source.models().size(); ++m) columns[source.models()[m]] = m;
  std::map<std::string, std::string> names;
  for (const TargetTerms& each : terms) names[each.target] = each.quality_as;
  std::vector<QualityEstimate> guesses(source.models().size());
  for (LoggedDecision& logged : log->decisions) {
    if (logged.decision.candidates.empty()) continue;
    if (logged.prompt.empty()) {
      return absl::FailedPreconditionError(
          fmt::format("--router: \"{:.100}\" was logged without its text (route_log_prompts: text)",
                      logged.id));
    }
    source.Predict({.text = logged.prompt}, guesses);
    for (CandidateReport& candidate : logged.decision.candidates) {
      const auto renamed = names.find(candidate.target);
      const std::string& name = renamed == names.end() ? candidate.target : renamed->second;
      const auto column = columns.find(name);
      if (column == columns.end()) {
        return absl::FailedPreconditionError(
            fmt::format("--router does not know \"{0:.100}\": name one of its models with "
                        "--quality-as {1:.100}=MODEL",
                        name, candidate.target));
      }
      candidate.quality = guesses[column->second].quality;
    }
  }
  return absl::OkStatus();
}

Json ReplayJson(const RouteLog& log, const ReplayOptions& options) {
  return Replay(log, options).Run();
}

std::string LogReportText(const Json& report) {
  const Json& log = report["log"];
  std::string out = fmt::format("{} decisions, {} judged", log["decisions"].get<int>(),
                                log["feedback"].get<int>());
  if (log["truncated"].get<bool>()) out += "; the last line is cut off and was left out";
  if (log["skipped"].get<int>() > 0)
    out += fmt::format("; {} bad lines skipped", log["skipped"].get<int>());
  out += fmt::format("\n\n{:<20}{:>9}{:>7} {:^35} {:^29} {:^33}\n", "", "", "", "cost, USD",
                     "latency, s", "quality");
  out += fmt::format("{:<20}{:>9}{:>7}", "model", "requests", "failed");
  out += fmt::format(" {:>11}{:>12}{:>12}", "predicted", "observed", "MAE");
  out += fmt::format(" {:>9}{:>10}{:>10}", "predicted", "observed", "MAE");
  out += fmt::format(" {:>7}{:>10}{:>9}{:>7}\n", "judged", "predicted", "observed", "ECE");
  for (const Json& row : report["calibration"]) {
    const Json &cost = row["cost_usd"], &latency = row["latency_s"], &quality = row["quality"];
    out += fmt::format("{:<20}{:>9}{:>7}", row["model"].get<std::string>(),
                       row["requests"].get<int>(), row["failed"].get<int>());
    out += " " + Cell(cost["predicted"], 11, "{:.3g}") + Cell(cost["observed"], 12, "{:.3g}") +
           Cell(cost["mae"], 12, "{:.3g}");
    out += " " + Cell(latency["predicted"], 9, "{:.3f}") + Cell(latency["observed"], 10, "{:.3f}") +
           Cell(latency["mae"], 10, "{:.3f}");
    out += " " + Cell(quality["n"], 7, "{:.0f}") + Cell(quality["predicted"], 10, "{:.3f}") +
           Cell(quality["observed"], 9, "{:.3f}") +
           Cell(quality.contains("ece") ? quality["ece"] : Json(), 7, "{:.3f}") + "\n";
  }
  if (report.contains("replayed")) {
    AppendPolicy("as logged", report["logged"], &out);
    AppendPolicy("replayed", report["replayed"], &out);
  }
  return out;
}

}  // namespace hostler
