#include <algorithm>
#include <limits>
#include <utility>

#include "fmt/format.h"
#include "router/policy.h"

namespace hostler {
namespace {

class StaticPolicy : public RoutingPolicy {
 public:
  explicit StaticPolicy(std::vector<StaticRule> rules) : rules_(std::move(rules)) {}

  std::string_view name() const override { return "static"; }

  absl::StatusOr<Decision> Decide(const RouteFeatures& features,
                                  std::span<const TargetSnapshot> targets) override {
    Choice choice;
    if (rules_.empty()) {
      for (const TargetSnapshot& target : targets) {
        Consider({target.name, 0}, target, features, &choice);
      }
    }
    for (const StaticRule& rule : rules_) {
      const auto target = std::find_if(targets.begin(), targets.end(),
                                       [&](const auto& t) { return t.name == rule.target; });
      if (target != targets.end()) Consider(rule, *target, features, &choice);
    }
    if (choice.target == nullptr) return NoTarget(choice, features);
    const std::string limit =
        choice.max_prompt_tokens > 0 ? fmt::format(" <= {}", choice.max_prompt_tokens) : "";
    Decision decision;
    decision.target = choice.target->name;
    decision.reason = fmt::format("static: {}{}, cheapest of {}", Length(features), limit,
                                  choice.suitable.size());
    decision.rule = "rules";
    decision.wish = features.wish;
    std::stable_sort(choice.suitable.begin(), choice.suitable.end(),
                     [](const auto* a, const auto* b) { return Cost(*a) < Cost(*b); });
    for (const TargetSnapshot* other : choice.suitable) {
      if (other != choice.target) decision.fallbacks.push_back(other->name);
    }
    return decision;
  }

 private:
  struct Choice {
    const TargetSnapshot* target = nullptr;
    int max_prompt_tokens = 0;
    std::vector<const TargetSnapshot*> suitable;
    int unable = 0;  // engines here that cannot answer it
    int unavailable = 0;
    int longest_context = 0;  // of those whose rule takes the prompt
    int longest_rule = 0;
  };

  static double Cost(const TargetSnapshot& target) {
    return target.price.input + target.price.output;
  }

  static std::string Length(const RouteFeatures& features) {
    return fmt::format("{} prompt tokens{}", features.prompt_tokens,
                       features.prompt_tokens_estimated ? " (estimated)" : "");
  }

  static void Consider(const StaticRule& rule, const TargetSnapshot& target,
                       const RouteFeatures& features, Choice* choice) {
    choice->longest_rule = std::max(choice->longest_rule, rule.max_prompt_tokens);
    if (rule.max_prompt_tokens > 0 && features.prompt_tokens > rule.max_prompt_tokens) return;
    if (features.upstreams_only && target.local) {
      ++choice->unable;
      return;
    }
    if (!target.available) {
      ++choice->unavailable;
      return;
    }
    // At least one token has to come out.
    const int64_t needed = int64_t{features.prompt_tokens} + std::max(features.max_tokens, 1);
    if (target.max_context > 0 && needed > target.max_context) {
      choice->longest_context = std::max(choice->longest_context, target.max_context);
      return;
    }
    choice->suitable.push_back(&target);
    if (choice->target == nullptr || Cost(target) < Cost(*choice->target)) {
      choice->target = &target;
      choice->max_prompt_tokens = rule.max_prompt_tokens;
    }
  }

  static absl::Status NoTarget(const Choice& choice, const RouteFeatures& features) {
    if (choice.unavailable > 0) {
      return absl::UnavailableError(
          fmt::format("static: none of the {} models that take {} is available", choice.unavailable,
                      Length(features)));
    }
    if (choice.unable > 0 && choice.longest_context == 0) {
      return absl::FailedPreconditionError("static: no model of this server can answer this");
    }
    if (choice.longest_context > 0) {
      return absl::InvalidArgumentError(
          fmt::format("static: {} and {} to generate exceed the longest context, {}",
                      Length(features), std::max(features.max_tokens, 1), choice.longest_context));
    }
    if (choice.longest_rule > 0) {
      return absl::InvalidArgumentError(fmt::format("static: {} exceed the longest rule's {}",
                                                    Length(features), choice.longest_rule));
    }
    return absl::UnavailableError("static: there is no model to choose from");
  }

  const std::vector<StaticRule> rules_;
};

}  // namespace

std::unique_ptr<RoutingPolicy> NewStaticPolicy(std::vector<StaticRule> rules) {
  return std::make_unique<StaticPolicy>(std::move(rules));
}

}  // namespace hostler
