// ScoredRoutingPolicy: a virtual model whose targets are weighed by predicted quality,
// cost and latency. It scores; a Chooser chooses.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/policy.h"
#include "router/policy/budget.h"
#include "router/policy/chooser.h"
#include "router/policy/conversations.h"
#include "router/policy/quality_slot.h"

namespace hostler {

class PromptEmbedder;  // router/quality/prompt_embedder.h

struct ScoredRoutingOptions {
  std::vector<TargetTerms> targets;  // at least one
  // The router file; "": the targets' own qualities. While it cannot be read a
  // static policy serves, without rules.
  std::string router_file;
  LoadQuality load;
  // For router files that were trained with its encoder; null: there is none. Must
  // outlive the policy.
  PromptEmbedder* embedder = nullptr;

  Limits limits;                                 // of every request
  double output_tokens = 256;                    // expected of an answer where nothing tells better
  std::optional<double> payer_day_usd, day_usd;  // budgets
  // When every target costs more than limits.max_cost or the budgets have left:
  // refuse (ResourceExhausted), or take the cheapest.
  bool reject_over_budget = false;
};

class ScoredRoutingPolicy : public RoutingPolicy {
 public:
  ScoredRoutingPolicy(ScoredRoutingOptions options, std::unique_ptr<Chooser> chooser);

  std::string_view name() const override { return chooser_->name(); }
  void Prepare(RouteFeatures* features, std::vector<float>* storage) override;
  // Errors: Unavailable; InvalidArgument for a prompt that is too long for all, or
  // a request's own max_cost that all exceed; ResourceExhausted for budgets.
  absl::StatusOr<Decision> Decide(const RouteFeatures& features,
                                  std::span<const TargetSnapshot> targets) override;
  void Started(const Decision& decision) override;
  void Finished(const Decision& decision, const RouteOutcome& outcome) override;
  void Learn(const Decision& decision, const std::string& target, double score) override;

  const ScoredRoutingOptions& options() const { return options_; }
  QualitySlot* quality() override { return options_.router_file.empty() ? nullptr : &quality_; }
  Budgets* budgets() override { return &budgets_; }

  // What was spent and learned, to be kept over a restart.
  nlohmann::ordered_json State();
  // What it tells of targets that are none here is left out. Errors: InvalidArgument for what is
  // no State(); a part of it may have been taken.
  absl::Status Restore(const nlohmann::ordered_json& state);

 private:
  struct Scores;
  Scores Score(const RouteFeatures& features, std::span<const TargetSnapshot> targets,
               const LoadedQuality* loaded);
  absl::StatusOr<Decision> DecideStatic(const RouteFeatures& features,
                                        std::span<const TargetSnapshot> targets);
  absl::Status ApplyCostLimit(const RouteFeatures& features, double left, Limits* limits,
                              Scores* scores) const;
  int IndexOf(std::string_view target) const;

  const ScoredRoutingOptions options_;
  const std::unique_ptr<Chooser> chooser_;
  const std::unique_ptr<RoutingPolicy> fallback_;
  QualitySlot quality_;
  Budgets budgets_;
  Conversations conversations_;
};

}  // namespace hostler
