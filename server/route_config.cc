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

absl::Status ReadShadow(const YamlMap& map, ShadowOptions* shadow) {
  HOSTLER_RETURN_IF_ERROR(
      map.ReadSettings({{"share", "P", "", "", SetNumber(&shadow->share, 0, 1)},
                        {"target", "NAME", "", "", SetText(&shadow->target)},
                        {"concurrency", "N", "", "", SetInt(&shadow->concurrency, 1, 1024)}},
                       {}));
  return shadow->share > 0 ? absl::OkStatus() : map.Error("shadow needs a share above 0");
}

absl::Status ReadHedge(const YamlMap& map, HedgeOptions* hedge) {
  bool told = false;
  const auto set = [&](const std::string& text) -> absl::Status {
    told = true;
    if (text == "p95") return absl::OkStatus();
    double ms = 0;
    if (!SetNumber(&ms, 1, kMaxMs)(text).ok()) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is neither a number from 1 to {} nor p95", text, kMaxMs));
    }
    hedge->after_s = ms / 1000;
    return absl::OkStatus();
  };
  HOSTLER_RETURN_IF_ERROR(map.ReadSettings({{"after_ms", "MS|p95", "", "", set}}, {}));
  return told ? absl::OkStatus() : map.Error("hedge needs after_ms: a number, or p95");
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

// Keys that not all policies use, and those that do.
struct KeyOfSome {
  const char* key;
  std::vector<std::string_view> policies;
};

const std::vector<KeyOfSome>& KeysOfSome() {
  static const std::vector<std::string_view> scored = {"cost_quality", "best_effort", "cascade",
                                                       "bandit"};
  static const std::vector<KeyOfSome> keys = {
      {"rules", {"static"}},
      {"targets", scored},
      {"router", scored},
      {"max_cost", scored},
      {"key_budget", scored},
      {"day_budget", scored},
      {"over_budget", scored},
      {"output_tokens", scored},
      {"affinity", scored},
      {"min_quality", {"cost_quality", "cascade", "bandit"}},
      {"value", {"cost_quality", "bandit"}},
      {"deadline_ms", {"cost_quality", "best_effort"}},
      {"judge_logprob", {"cascade"}},
      {"judge_tokens", {"cascade"}},
      {"prior_weight", {"bandit"}},
      {"explore", {"bandit"}},
      {"forget", {"bandit"}}};
  return keys;
}

absl::Status ValidateKeys(const VirtualModelConfig& model) {
  for (const KeyOfSome& some : KeysOfSome()) {
    const bool used =
        std::find(some.policies.begin(), some.policies.end(), model.policy) != some.policies.end();
    if (used || !model.given.contains(some.key)) continue;
    return Contradiction(model, fmt::format("{} means nothing to {}; it is for {}", some.key,
                                            model.policy, fmt::join(some.policies, ", ")));
  }
  return absl::OkStatus();
}

absl::Status ValidateOptions(const VirtualModelConfig& model,
                             const std::set<std::string>& targets) {
  if (model.options.hedge.has_value() && model.policy == "cascade") {
    return Contradiction(model, "hedge: a cascade judges the first answer before another is asked");
  }
  const std::string& shadow = model.options.shadow.target;
  if (shadow.empty()) return absl::OkStatus();
  const auto is_shadow = [&](const auto& each) { return each.target == shadow; };
  const bool own =
      !model.targets.empty() ? std::any_of(model.targets.begin(), model.targets.end(), is_shadow)
      : !model.rules.empty() ? std::any_of(model.rules.begin(), model.rules.end(), is_shadow)
                             : targets.contains(shadow);
  if (own) return absl::OkStatus();
  return Contradiction(model, fmt::format("shadow: \"{}\" is none of its targets", shadow));
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

// For a person: what goes on beside the policy.
std::string DescribeOptions(const VirtualModelOptions& options) {
  std::string text;
  if (options.hedge.has_value()) {
    text += options.hedge->after_s.has_value()
                ? fmt::format("; hedged after {} ms", *options.hedge->after_s * 1000)
                : "; hedged after the 95th percentile";
  }
  if (options.shadow.share > 0) {
    const std::string& target = options.shadow.target;
    text += fmt::format("; {:.3g} % to {} as well", options.shadow.share * 100,
                        target.empty() ? "another" : target);
  }
  return text;
}

}  // namespace

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

Limits LimitsOf(const VirtualModelConfig& model) {
  Limits limits{.min_quality = model.min_quality, .max_cost = model.max_cost};
  if (model.deadline_ms.has_value()) limits.deadline_s = *model.deadline_ms / 1000;
  return limits;
}

std::vector<Setting> ChooserSettings(VirtualModelConfig* model) {
  return {
      {"value", "USD", "What a good answer is worth", "", SetOptional(&model->value, 0, kMaxUsd)},
      {"min_quality", "P", "The least predicted quality", "",
       SetOptional(&model->min_quality, 0, 1)},
      {"max_cost", "USD", "The most that a request may cost", "",
       SetOptional(&model->max_cost, 0, kMaxUsd)},
      {"deadline_ms", "MS", "To the end of the answer", "",
       SetOptional(&model->deadline_ms, 1, kMaxMs)},
      {"affinity", "P", "Quality that leaving a conversation's cache must gain", "",
       SetOptional(&model->affinity, 0, 1)},
      {"prior_weight", "N", "Of a bandit: judgements that a prediction is worth", "",
       SetNumber(&model->prior_weight, 0.01, 1e6)},
      {"explore", "X", "Of a bandit: how much it tries", "", SetNumber(&model->explore, 0, 10)},
      {"forget", "X", "Of a bandit: what old judgements keep at each new one", "",
       SetNumber(&model->forget, 0.5, 1)},
  };
}

absl::Status ReadVirtualModel(const YamlMap& map, VirtualModelConfig* model) {
  std::vector<Setting> settings = ChooserSettings(model);
  const std::vector<Setting> rest = {
      {"name", "NAME", "", "", SetText(&model->name)},
      {"policy", "NAME", "", "",
       SetChoice(&model->policy, {"static", "cost_quality", "best_effort", "cascade", "bandit"})},
      {"router", "FILE", "", "", SetText(&model->router)},
      {"key_budget", "USD", "", "", SetOptional(&model->key_budget, 0, kMaxUsd)},
      {"day_budget", "USD", "", "", SetOptional(&model->day_budget, 0, kMaxUsd)},
      {"over_budget", "", "", "", SetChoice(&model->over_budget, {"cheapest", "reject"})},
      {"output_tokens", "N", "", "", SetNumber(&model->output_tokens, 1, 1e6)},
      {"judge_logprob", "X", "", "", SetNumber(&model->judge_logprob, -100, 0)},
      {"judge_tokens", "N", "", "", SetInt(&model->judge_tokens, 1, 4096)}};
  settings.insert(settings.end(), rest.begin(), rest.end());
  for (Setting& setting : settings) {
    setting.set = [model, key = setting.key, set = setting.set](const std::string& text) {
      model->given.insert(key);
      return set(text);
    };
  }
  HOSTLER_RETURN_IF_ERROR(
      map.ReadSettings(settings, {{"rules",
                                   [model](const YamlValue& value) {
                                     model->given.insert("rules");
                                     return ReadList(value, ReadRule, &model->rules);
                                   }},
                                  {"shadow",
                                   [model](const YamlValue& value) -> absl::Status {
                                     HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, value.AsMap());
                                     return ReadShadow(map, &model->options.shadow);
                                   }},
                                  {"hedge",
                                   [model](const YamlValue& value) -> absl::Status {
                                     HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, value.AsMap());
                                     return ReadHedge(map, &model->options.hedge.emplace());
                                   }},
                                  {"targets", [model](const YamlValue& value) {
                                     model->given.insert("targets");
                                     return ReadList(value, ReadTerms, &model->targets);
                                   }}}));
  return model->name.empty() ? map.Error("a virtual model needs a name") : absl::OkStatus();
}

absl::Status ValidateVirtualModel(const VirtualModelConfig& model,
                                  const std::set<std::string>& targets,
                                  const std::set<std::string>& unpriced) {
  HOSTLER_RETURN_IF_ERROR(ValidateOptions(model, targets));
  HOSTLER_RETURN_IF_ERROR(ValidateKeys(model));
  if (model.policy == "static") return ValidateRules(model, targets, unpriced);
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
  options.limits = LimitsOf(model);
  options.embedder = embedder;
  options.output_tokens = model.output_tokens;
  options.payer_day_usd = model.key_budget;
  options.day_usd = model.day_budget;
  options.reject_over_budget = model.over_budget == "reject";
  return std::make_unique<ScoredRoutingPolicy>(std::move(options), NewChooser(model));
}

std::string DescribePolicy(const VirtualModelConfig& model) {
  std::vector<std::string> parts;
  if (model.policy == "static") {
    if (model.rules.empty()) {
      return "static: the cheapest of all" + DescribeOptions(model.options);
    }
    for (const StaticRule& rule : model.rules) {
      parts.push_back(rule.max_prompt_tokens > 0 ? fmt::format("{} up to {} prompt tokens",
                                                               rule.target, rule.max_prompt_tokens)
                                                 : fmt::format("{} for any length", rule.target));
    }
    return fmt::format("static: the cheapest of {}{}", fmt::join(parts, ", "),
                       DescribeOptions(model.options));
  }
  if (model.value) parts.push_back(fmt::format("${} a good answer", *model.value));
  if (model.min_quality) parts.push_back(fmt::format("quality >= {}", *model.min_quality));
  if (model.max_cost) parts.push_back(fmt::format("at most ${}", *model.max_cost));
  if (model.deadline_ms) parts.push_back(fmt::format("within {} ms", *model.deadline_ms));
  std::vector<std::string> names;
  for (const TargetTerms& each : model.targets) names.push_back(each.target);
  return fmt::format("{}{}{}, of {}{}", model.policy, parts.empty() ? "" : ": ",
                     fmt::join(parts, ", "),
                     names.empty() ? "all" : fmt::format("{}", fmt::join(names, ", ")),
                     DescribeOptions(model.options));
}

}  // namespace hostler
