#include "server/route_config.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "router/policy/chooser.h"
#include "router/policy/scored_policy.h"
#include "server/settings.h"

namespace hostler {
namespace {

constexpr double kMaxUsd = 1e9;
constexpr double kMaxMs = 1e9;

std::function<absl::Status(const std::string&)> SetOptional(std::optional<double>* to, double low,
                                                            double high) {
  return [=](const std::string& text) -> absl::Status {
    double value = 0;
    HOSTLER_RETURN_IF_ERROR(SetNumber(&value, low, high)(text));
    *to = value;
    return absl::OkStatus();
  };
}

absl::Status ReadRule(const YamlMap& map, StaticRule* rule) {
  constexpr int kMax = std::numeric_limits<int>::max();
  HOSTLER_RETURN_IF_ERROR(map.ReadSettings(
      {{"target", "NAME", "", "", SetText(&rule->target)},
       {"max_prompt_tokens", "N", "", "", SetInt(&rule->max_prompt_tokens, 0, kMax)}},
      {}));
  return rule->target.empty() ? map.Error("a rule needs a target") : absl::OkStatus();
}

absl::Status ReadTerms(const YamlMap& map, TargetTerms* terms) {
  HOSTLER_RETURN_IF_ERROR(
      map.ReadSettings({{"target", "NAME", "", "", SetText(&terms->target)},
                        {"quality_as", "NAME", "", "", SetText(&terms->quality_as)},
                        {"quality", "P", "", "", SetOptional(&terms->quality, 0, 1)}},
                       {}));
  return terms->target.empty() ? map.Error("an entry needs a target") : absl::OkStatus();
}

absl::Status Contradiction(const VirtualModelConfig& model, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("virtual model \"{}\": {}", model.name, what));
}

absl::Status ValidateBounds(const VirtualModelConfig& model) {
  if (model.policy == "best_effort" && !model.deadline_ms.has_value()) {
    return Contradiction(model, "best_effort needs a deadline_ms");
  }
  if (model.max_cost.has_value() && model.day_budget.has_value() &&
      *model.max_cost > *model.day_budget) {
    return Contradiction(model, fmt::format("max_cost {} exceeds day_budget {}", *model.max_cost,
                                            *model.day_budget));
  }
  if (model.key_budget.has_value() && model.day_budget.has_value() &&
      *model.key_budget > *model.day_budget) {
    return Contradiction(model, fmt::format("key_budget {} exceeds day_budget {}",
                                            *model.key_budget, *model.day_budget));
  }
  if (!model.router.empty() || !model.min_quality.has_value() || model.targets.empty()) {
    return absl::OkStatus();
  }
  double best = 0;
  for (const TargetTerms& each : model.targets) best = std::max(best, each.quality.value_or(0));
  if (best >= *model.min_quality) return absl::OkStatus();
  return Contradiction(model,
                       fmt::format("min_quality {} is above every target's quality, at most {}",
                                   *model.min_quality, best));
}

absl::Status ValidateTargets(const VirtualModelConfig& model, const std::set<std::string>& targets,
                             const std::set<std::string>& unpriced) {
  std::set<std::string> used;
  for (const TargetTerms& each : model.targets) {
    if (!targets.contains(each.target)) {
      return Contradiction(model, fmt::format("\"{}\" is no model", each.target));
    }
    if (!used.insert(each.target).second) {
      return Contradiction(model, fmt::format("target \"{}\" stands twice", each.target));
    }
    if (model.router.empty() && !each.quality.has_value()) {
      return Contradiction(model,
                           fmt::format("\"{}\" needs a quality, or the virtual model a router "
                                       "file that predicts it",
                                       each.target));
    }
  }
  if (model.targets.empty() && model.router.empty()) {
    return Contradiction(model, "needs a router file, or targets with a quality each");
  }
  if (used.empty()) used = targets;
  for (const std::string& name : used) {
    if (!unpriced.contains(name)) continue;
    return Contradiction(model, fmt::format("upstream \"{}\" has no price: give it one", name));
  }
  return absl::OkStatus();
}

absl::Status ValidateRules(const VirtualModelConfig& model, const std::set<std::string>& targets,
                           const std::set<std::string>& unpriced) {
  std::vector<std::string> used;
  for (const StaticRule& rule : model.rules) {
    if (!targets.contains(rule.target)) {
      return absl::InvalidArgumentError(
          fmt::format("virtual model \"{}\" has a rule for \"{}\", which is no model", model.name,
                      rule.target));
    }
    used.push_back(rule.target);
  }
  if (used.empty()) used.assign(targets.begin(), targets.end());
  for (const std::string& name : used) {
    if (!unpriced.contains(name)) continue;
    return absl::InvalidArgumentError(fmt::format(
        "virtual model \"{}\" chooses by price, but upstream \"{}\" has none: give it a price",
        model.name, name));
  }
  return absl::OkStatus();
}

std::unique_ptr<Chooser> NewChooser(const VirtualModelConfig& model) {
  std::unique_ptr<Chooser> chooser;
  if (model.policy == "best_effort") {
    chooser = NewBestEffort();
  } else if (model.policy == "cascade") {
    chooser = NewCascade({model.judge_logprob, model.judge_tokens});
  } else if (model.policy == "bandit") {
    chooser = NewBandit({.value_usd = model.value,
                         .prior_weight = model.prior_weight,
                         .explore = model.explore,
                         .forget = model.forget});
  } else {
    chooser = NewCostQuality(model.value);
  }
  if (!model.affinity.has_value()) return chooser;
  return NewAffinity(std::move(chooser), *model.affinity);
}

}  // namespace

absl::Status ReadVirtualModel(const YamlMap& map, VirtualModelConfig* model) {
  HOSTLER_RETURN_IF_ERROR(map.ReadSettings(
      {{"name", "NAME", "", "", SetText(&model->name)},
       {"policy", "NAME", "", "",
        SetChoice(&model->policy, {"static", "cost_quality", "best_effort", "cascade", "bandit"})},
       {"router", "FILE", "", "", SetText(&model->router)},
       {"value", "USD", "", "", SetOptional(&model->value, 0, kMaxUsd)},
       {"min_quality", "P", "", "", SetOptional(&model->min_quality, 0, 1)},
       {"max_cost", "USD", "", "", SetOptional(&model->max_cost, 0, kMaxUsd)},
       {"deadline_ms", "MS", "", "", SetOptional(&model->deadline_ms, 1, kMaxMs)},
       {"key_budget", "USD", "", "", SetOptional(&model->key_budget, 0, kMaxUsd)},
       {"day_budget", "USD", "", "", SetOptional(&model->day_budget, 0, kMaxUsd)},
       {"over_budget", "", "", "", SetChoice(&model->over_budget, {"cheapest", "reject"})},
       {"output_tokens", "N", "", "", SetNumber(&model->output_tokens, 1, 1e6)},
       {"affinity", "P", "", "", SetOptional(&model->affinity, 0, 1)},
       {"judge_logprob", "X", "", "", SetNumber(&model->judge_logprob, -100, 0)},
       {"judge_tokens", "N", "", "", SetInt(&model->judge_tokens, 1, 4096)},
       {"prior_weight", "N", "", "", SetNumber(&model->prior_weight, 0.01, 1e6)},
       {"explore", "X", "", "", SetNumber(&model->explore, 0, 10)},
       {"forget", "X", "", "", SetNumber(&model->forget, 0.5, 1)}},
      {{"rules",
        [model](const YamlValue& value) { return ReadList(value, ReadRule, &model->rules); }},
       {"targets",
        [model](const YamlValue& value) { return ReadList(value, ReadTerms, &model->targets); }}}));
  return model->name.empty() ? map.Error("a virtual model needs a name") : absl::OkStatus();
}

absl::Status ValidateVirtualModel(const VirtualModelConfig& model,
                                  const std::set<std::string>& targets,
                                  const std::set<std::string>& unpriced) {
  if (model.policy == "static") {
    if (!model.targets.empty() || !model.router.empty()) {
      return Contradiction(model, "static has rules; targets and router are other policies'");
    }
    return ValidateRules(model, targets, unpriced);
  }
  if (!model.rules.empty()) {
    return Contradiction(model, fmt::format("{} has targets, not rules", model.policy));
  }
  HOSTLER_RETURN_IF_ERROR(ValidateTargets(model, targets, unpriced));
  return ValidateBounds(model);
}

std::unique_ptr<RoutingPolicy> NewPolicy(const VirtualModelConfig& model,
                                         const std::vector<std::string>& all, LoadQuality load,
                                         PromptEmbedder* embedder) {
  if (model.policy == "static") return NewStaticPolicy(model.rules);
  ScoredRoutingOptions options;
  options.targets = model.targets;
  if (options.targets.empty()) {
    for (const std::string& name : all) options.targets.push_back({.target = name});
  }
  options.router_file = model.router;
  options.load = std::move(load);
  options.embedder = embedder;
  options.limits = {.min_quality = model.min_quality, .max_cost = model.max_cost};
  if (model.deadline_ms.has_value()) options.limits.deadline_s = *model.deadline_ms / 1000;
  options.output_tokens = model.output_tokens;
  options.payer_day_usd = model.key_budget;
  options.day_usd = model.day_budget;
  options.reject_over_budget = model.over_budget == "reject";
  return std::make_unique<ScoredRoutingPolicy>(std::move(options), NewChooser(model));
}

std::string DescribePolicy(const VirtualModelConfig& model) {
  std::vector<std::string> parts;
  if (model.policy == "static") {
    if (model.rules.empty()) return "static: the cheapest of all";
    for (const StaticRule& rule : model.rules) {
      parts.push_back(rule.max_prompt_tokens > 0 ? fmt::format("{} up to {} prompt tokens",
                                                               rule.target, rule.max_prompt_tokens)
                                                 : fmt::format("{} for any length", rule.target));
    }
    return fmt::format("static: the cheapest of {}", fmt::join(parts, ", "));
  }
  if (model.value) parts.push_back(fmt::format("${} a good answer", *model.value));
  if (model.min_quality) parts.push_back(fmt::format("quality >= {}", *model.min_quality));
  if (model.max_cost) parts.push_back(fmt::format("at most ${}", *model.max_cost));
  if (model.deadline_ms) parts.push_back(fmt::format("within {} ms", *model.deadline_ms));
  std::vector<std::string> names;
  for (const TargetTerms& each : model.targets) names.push_back(each.target);
  return fmt::format("{}{}{}, of {}", model.policy, parts.empty() ? "" : ": ",
                     fmt::join(parts, ", "),
                     names.empty() ? "all" : fmt::format("{}", fmt::join(names, ", ")));
}

}  // namespace hostler
