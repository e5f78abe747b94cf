#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/text_serializer.h"
#include "server/engine_collector.h"
#include "server/upstream_collector.h"

namespace hostler {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

using Buckets = Histogram::BucketBoundaries;

const Buckets kFirstTokenSeconds = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kTokenSeconds = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                               .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
const Buckets kRequestSeconds = {.1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,
                                 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kTokens = {1,   2,    5,    10,   20,    50,    100,   200,
                         500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

// Dashboards show a rate only for a series that was there before its first
// event.
constexpr std::array kFinishReasons = {FinishReason::kStop, FinishReason::kLength,
                                       FinishReason::kCancelled, FinishReason::kError};

// One request's timings and sizes; the series of one model.
struct ModelSeries {
  Histogram* first_token;
  Histogram* inter_token;
  Histogram* output_token;
  Histogram* latency;
  Histogram* queued;
  Histogram* prompt_tokens;
  Histogram* generated_tokens;
};

template <typename T>
void Append(std::vector<T> from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

struct Metrics::Impl {
  const Router* router = nullptr;

  Family<Histogram> first_token{
      "hostler:time_to_first_token_seconds", "From arrival to the first token.", {}};
  Family<Histogram> inter_token{
      "hostler:inter_token_latency_seconds", "Between two tokens of a sequence.", {}};
  Family<Histogram> output_token{"hostler:time_per_output_token_seconds",
                                 "The same as hostler:inter_token_latency_seconds, by its older "
                                 "name.",
                                 {}};
  Family<Histogram> latency{
      "hostler:e2e_request_latency_seconds", "From arrival to the end of the last sequence.", {}};
  Family<Histogram> queued{
      "hostler:request_queue_time_seconds", "From arrival to the first row computed.", {}};
  Family<Histogram> prompt_tokens{
      "hostler:request_prompt_tokens", "Prompt tokens of a request.", {}};
  Family<Histogram> generated_tokens{
      "hostler:request_generation_tokens", "Tokens generated for a request.", {}};
  Family<Counter> success{
      "hostler:request_success_total", "Requests that ended, by why they did.", {}};
  Family<Counter> refused{
      "hostler:requests_refused_total", "Requests that were never started, by status.", {}};
  Family<Gauge> connections_family{"hostler:http_connections", "Open HTTP connections.", {}};
  Gauge* connections = &connections_family.Add({});

  std::mutex mutex;
  std::map<std::string, ModelSeries> models;  // guarded by mutex

  const ModelSeries& Series(const std::string& model) {
    std::lock_guard lock(mutex);
    const auto found = models.find(model);
    if (found != models.end()) return found->second;
    const prometheus::Labels labels = {{"model_name", model}};
    for (const FinishReason reason : kFinishReasons) {
      success.Add(
          {{"model_name", model}, {"finished_reason", std::string(FinishReasonName(reason))}});
    }
    const ModelSeries series = {
        &first_token.Add(labels, kFirstTokenSeconds), &inter_token.Add(labels, kTokenSeconds),
        &output_token.Add(labels, kTokenSeconds),     &latency.Add(labels, kRequestSeconds),
        &queued.Add(labels, kRequestSeconds),         &prompt_tokens.Add(labels, kTokens),
        &generated_tokens.Add(labels, kTokens)};
    return models.emplace(model, series).first->second;
  }
};

Metrics::Metrics(const Router* router) : impl_(std::make_unique<Impl>()) {
  impl_->router = router;
  if (router == nullptr) return;
  for (const auto& target : router->targets()) impl_->Series(target->name());
}

Metrics::~Metrics() = default;

void Metrics::ObserveFirstToken(const std::string& model, double seconds) {
  impl_->Series(model).first_token->Observe(seconds);
}

void Metrics::ObserveInterToken(const std::string& model, double seconds, int tokens) {
  const ModelSeries& series = impl_->Series(model);
  for (int i = 0; i < tokens; ++i) {
    series.inter_token->Observe(seconds / tokens);
    series.output_token->Observe(seconds / tokens);
  }
}

void Metrics::ObserveFinished(const std::string& model, const std::string& finish_reason,
                              const Usage& usage, const Timings& timings) {
  const ModelSeries& series = impl_->Series(model);
  impl_->success.Add({{"model_name", model}, {"finished_reason", finish_reason}}).Increment();
  series.latency->Observe(timings.total_ms / 1000);
  // A request that left the queue by being cancelled has no such time.
  if (timings.queued_ms > 0) series.queued->Observe(timings.queued_ms / 1000);
  series.prompt_tokens->Observe(usage.prompt_tokens);
  series.generated_tokens->Observe(usage.completion_tokens);
}

void Metrics::CountRefused(const std::string& model, const absl::Status& status) {
  std::string reason = absl::StatusCodeToString(status.code());
  std::transform(reason.begin(), reason.end(), reason.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  impl_->refused.Add({{"model_name", model}, {"reason", reason}}).Increment();
}

void Metrics::SetHttpConnections(int open) { impl_->connections->Set(open); }

std::string Metrics::Expose() const {
  std::vector<prometheus::MetricFamily> families;
  if (impl_->router != nullptr) {
    families = CollectEngines(*impl_->router);
    Append(CollectUpstreams(*impl_->router), &families);
  }
  const std::array<const prometheus::Collectable*, 10> own = {
      &impl_->first_token, &impl_->inter_token,       &impl_->output_token,     &impl_->latency,
      &impl_->queued,      &impl_->prompt_tokens,     &impl_->generated_tokens, &impl_->success,
      &impl_->refused,     &impl_->connections_family};
  Append(routes_.Collect(impl_->router), &families);
  for (const prometheus::Collectable* family : own) Append(family->Collect(), &families);
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace hostler
