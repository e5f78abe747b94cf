#include "server/route_metrics.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "router/policy/quality_slot.h"
#include "server/metric_family.h"

namespace hostler {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

const Histogram::BucketBoundaries kDecideSeconds = {5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4,
                                                    5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2};

const Histogram::BucketBoundaries kEmbedSeconds = {2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3,
                                                   7e-3, 1e-2, 2e-2, 5e-2, 1e-1};

// What a decision's best candidate would have cost; NaN when it is not known.
double CostOfBest(const Decision& decision) {
  const CandidateReport* best = nullptr;
  for (const CandidateReport& candidate : decision.candidates) {
    if (std::isnan(candidate.quality) || std::isnan(candidate.cost_usd)) continue;
    if (best == nullptr || candidate.quality > best->quality) best = &candidate;
  }
  return best == nullptr ? NAN : best->cost_usd;
}

}  // namespace

struct RouteMetrics::Impl {
  Family<Counter> decisions{
      "hostler:route_decisions_total", "Decisions for virtual models, by what decided.", {}};
  Family<Counter> failed{
      "hostler:route_failed_total", "Requests that no target of a virtual model could take.", {}};
  Family<Histogram> decide{"hostler:route_decide_seconds", "Time spent deciding.", {}};
  Family<Counter> embeddings{
      "hostler:route_embedding_total", "Prompts to be embedded, by what became of it.", {}};
  Family<Histogram> embed{
      "hostler:route_embed_seconds", "Time that decisions spent on embeddings.", {}};
  Family<Counter> predicted_cost{
      "hostler:route_predicted_cost_usd_total", "Expected cost of finished requests.", {}};
  Family<Counter> cost{"hostler:route_cost_usd_total", "What they did cost.", {}};
  Family<Gauge> saved{"hostler:route_saved_usd",
                      "Expected cost of always taking the best target, less what was spent.",
                      {}};
  Family<Counter> predicted_seconds{"hostler:route_predicted_seconds_total",
                                    "Expected time of finished requests, where one was expected.",
                                    {}};
  Family<Counter> seconds{"hostler:route_observed_seconds_total", "The time that those took.", {}};
  Family<Counter> feedbacks{"hostler:route_feedback_total", "Answers that were judged.", {}};
  Family<Counter> predicted_quality{"hostler:route_predicted_quality_total",
                                    "Sum of the predicted qualities of judged answers.",
                                    {}};
  Family<Counter> quality{
      "hostler:route_observed_quality_total", "Sum of the scores of judged answers.", {}};
  Family<Counter> shadows{"hostler:route_shadow_total",
                          "Requests that a target was to answer as well, by what came of it.",
                          {}};
  Family<Counter> shadow_cost{
      "hostler:route_shadow_cost_usd_total", "What those answers did cost.", {}};
  // Empty where nothing is kept.
  Family<Gauge> state_ok{"hostler:route_state_ok",
                         "Whether what was spent and learned could be read, and written since.",
                         {}};
  const DispatchStats* dispatch = nullptr;
};

RouteMetrics::RouteMetrics() : impl_(std::make_unique<Impl>()) {}
RouteMetrics::~RouteMetrics() = default;

void RouteMetrics::SetDispatchStats(const DispatchStats* stats) { impl_->dispatch = stats; }

void RouteMetrics::CountDecision(const Decision& decision, double seconds) {
  impl_->decisions
      .Add({{"virtual_model", decision.virtual_model},
            {"target", decision.target},
            {"policy", decision.policy},
            {"rule", decision.rule}})
      .Increment();
  const prometheus::Labels label = {{"virtual_model", decision.virtual_model}};
  impl_->decide.Add(label, kDecideSeconds).Observe(seconds);
  if (decision.embedding == EmbeddingUse::kNone || decision.embedding == EmbeddingUse::kNoEncoder) {
    return;
  }
  impl_->embeddings
      .Add({{"virtual_model", decision.virtual_model},
            {"result", EmbeddingUseName(decision.embedding)}})
      .Increment();
  impl_->embed.Add(label, kEmbedSeconds).Observe(decision.embed_s);
}

void RouteMetrics::CountFailed(const std::string& virtual_model, const absl::Status& status) {
  std::string reason = absl::StatusCodeToString(status.code());
  std::transform(reason.begin(), reason.end(), reason.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  impl_->failed.Add({{"virtual_model", virtual_model}, {"reason", reason}}).Increment();
}

void RouteMetrics::ObserveOutcome(const Decision& decision, const RouteOutcome& outcome) {
  const prometheus::Labels labels = {{"virtual_model", decision.virtual_model},
                                     {"target", outcome.target}};
  const double cost = std::isnan(outcome.cost_usd) ? 0 : outcome.cost_usd;
  impl_->cost.Add(labels).Increment(cost);
  const CandidateReport* report = decision.Find(outcome.target);
  if (report == nullptr) return;
  if (report->cost_usd > 0) impl_->predicted_cost.Add(labels).Increment(report->cost_usd);
  if (const double best = CostOfBest(decision); !std::isnan(best) && outcome.status.ok()) {
    impl_->saved.Add({{"virtual_model", decision.virtual_model}}).Increment(best - cost);
  }
  if (!std::isnan(report->latency_s) && outcome.status.ok()) {
    impl_->predicted_seconds.Add(labels).Increment(report->latency_s);
    impl_->seconds.Add(labels).Increment(outcome.timings.total_ms / 1000);
  }
}

void RouteMetrics::ObserveFeedback(const Decision& decision, const std::string& target,
                                   double score) {
  const prometheus::Labels labels = {{"virtual_model", decision.virtual_model}, {"target", target}};
  impl_->feedbacks.Add(labels).Increment();
  impl_->quality.Add(labels).Increment(score);
  const CandidateReport* report = decision.Find(target);
  if (report != nullptr && report->quality > 0) {
    impl_->predicted_quality.Add(labels).Increment(report->quality);
  }
}

void RouteMetrics::CountShadow(const std::string& target, const char* result) {
  impl_->shadows.Add({{"target", target}, {"result", result}}).Increment();
}

void RouteMetrics::SetStateOk(bool ok) { impl_->state_ok.Add({}).Set(ok ? 1 : 0); }

void RouteMetrics::AddShadowCost(const std::string& target, double usd) {
  if (usd > 0) impl_->shadow_cost.Add({{"target", target}}).Increment(usd);
}

std::vector<prometheus::MetricFamily> RouteMetrics::Collect(const Router* router) const {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  for (const prometheus::Collectable* family :
       std::initializer_list<const prometheus::Collectable*>{
           &impl_->decisions, &impl_->failed, &impl_->decide, &impl_->embeddings, &impl_->embed,
           &impl_->predicted_cost, &impl_->cost, &impl_->saved, &impl_->predicted_seconds,
           &impl_->seconds, &impl_->feedbacks, &impl_->predicted_quality, &impl_->quality,
           &impl_->state_ok, &impl_->shadows, &impl_->shadow_cost}) {
    for (prometheus::MetricFamily& each : family->Collect()) families.push_back(std::move(each));
  }
  const auto add = [&](MetricFamilyBuilder family) { families.push_back(family.Take()); };
  if (impl_->dispatch != nullptr) {
    const DispatchStats& stats = *impl_->dispatch;
    MetricFamilyBuilder fallbacks("route_fallbacks_total", MetricType::Counter,
                                  "Times that a request went on to another target.");
    fallbacks.Add({}, double(stats.fallbacks));
    add(std::move(fallbacks));
    MetricFamilyBuilder refused("route_retries_refused_total", MetricType::Counter,
                                "Times that the retry budget did not let it.");
    refused.Add({}, double(stats.retries_refused));
    add(std::move(refused));
    MetricFamilyBuilder cascades("route_cascades_total", MetricType::Counter,
                                 "First answers of cascades.");
    cascades.Add({{"result", "kept"}}, double(stats.cascades_kept));
    cascades.Add({{"result", "escalated"}}, double(stats.cascades_escalated));
    add(std::move(cascades));
    MetricFamilyBuilder hedges(
        "route_hedges_total", MetricType::Counter,
        "Second targets for late answers, by what came of them; refused: by the retry budget.");
    hedges.Add({{"result", "won"}}, double(stats.hedges_won));
    hedges.Add({{"result", "lost"}}, double(stats.hedges_lost));
    hedges.Add({{"result", "failed"}}, double(stats.hedges_failed));
    hedges.Add({{"result", "refused"}}, double(stats.hedges_refused));
    add(std::move(hedges));
  }
  if (router == nullptr) return families;
  MetricFamilyBuilder ok("route_file_ok", MetricType::Gauge,
                         "Whether the router file could be read when it was last tried.");
  MetricFamilyBuilder version("route_file_version", MetricType::Gauge,
                              "The router file that serves; 0: none, the static policy does.");
  MetricFamilyBuilder encoder("route_encoder_ok", MetricType::Gauge,
                              "Whether the encoder that the router file was trained with is here.");
  for (const std::string& name : router->virtual_models()) {
    QualitySlot* slot = router->FindPolicy(name)->quality();
    if (slot == nullptr) continue;
    const auto current = slot->current();
    ok.Add({{"virtual_model", name}}, slot->status().ok());
    version.Add({{"virtual_model", name}}, current ? double(current->version) : 0);
    if (current == nullptr || (!current->embeds && current->no_embedding.empty())) continue;
    encoder.Add({{"virtual_model", name}}, current->embeds);
  }
  add(std::move(ok));
  add(std::move(version));
  add(std::move(encoder));
  return families;
}

}  // namespace hostler
