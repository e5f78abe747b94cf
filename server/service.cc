#include "server/service.h"

#include <algorithm>
#include <random>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

RequestRecord NewRecord(const GenerateRequest& request, const CallInfo& info) {
  RequestRecord record;
  record.id = request.id;
  record.transport = info.transport;
  record.endpoint = info.endpoint;
  record.peer = info.peer;
  record.model = request.model;
  record.n = request.n;
  return record;
}

}  // namespace

Call::Call(GenerateRequest request_summary, Decision decision, std::unique_ptr<RoutedStream> stream,
           CallInfo info, std::string prompt, std::unique_ptr<GenerateRequest> shadow,
           Service* service)
    : id_(request_summary.id),
      decision_(std::move(decision)),
      stream_(std::move(stream)),
      info_(std::move(info)),
      prompt_(std::move(prompt)),
      shadow_(std::move(shadow)),
      keep_answer_(shadow_ != nullptr && service->routes_.logs_text()),
      service_(service),
      record_(NewRecord(request_summary, info_)),
      arrival_(request_summary.arrival),
      last_token_(static_cast<size_t>(std::max(request_summary.n, 1))) {
  record_.route = decision_.reason;
}

Call::~Call() {
  stream_->OnReady(nullptr);
  if (!stream_->ended()) stream_->Cancel();
  Account();
}

bool Call::TryPop(GenerateEvent* event) {
  if (!stream_->TryPop(event)) {
    if (stream_->ended()) Account();
    return false;
  }
  if (keep_answer_ && answer_.size() < ShadowTraffic::kMaxAnswer) answer_ += event->text;
  const Clock::time_point now = Clock::now();
  const int tokens = static_cast<int>(event->token_ids.size()) + event->unnamed_tokens;
  if (tokens > 0 && event->index < last_token_.size()) {
    if (record_.usage.completion_tokens == 0) {
      record_.timings.first_token_ms = SecondsBetween(arrival_, now) * 1000;
      service_->metrics_->ObserveFirstToken(target(), SecondsBetween(arrival_, now));
    }
    std::optional<Clock::time_point>& last = last_token_[event->index];
    if (last.has_value()) {
      service_->metrics_->ObserveInterToken(target(), SecondsBetween(*last, now), tokens);
    }
    last = now;
    record_.usage.completion_tokens += tokens;
  }
  record_.usage.prompt_tokens = static_cast<int>(stream_->prompt().token_ids.size());
  if (event->finish_reason.has_value() && record_.finish_reason.empty()) {
    record_.finish_reason = FinishReasonName(*event->finish_reason);
  }
  return true;
}

bool Call::ended() {
  if (!stream_->ended()) return false;
  Account();
  return true;
}

void Call::OnReady(std::function<void()> callback) { stream_->OnReady(std::move(callback)); }

void Call::Cancel() { stream_->Cancel(); }

void Call::Account() {
  if (std::exchange(accounted_, true)) return;
  if (stream_->ended()) {
    record_.status = stream_->status();
    record_.usage = stream_->usage();
    record_.timings = stream_->timings();
  } else {
    // Left by its client: what was seen of it so far is what is known.
    record_.status = absl::CancelledError("the client has gone");
    record_.timings.total_ms = SecondsBetween(arrival_, Clock::now()) * 1000;
  }
  if (absl::IsCancelled(record_.status)) {
    record_.finish_reason = FinishReasonName(FinishReason::kCancelled);
  } else if (!record_.status.ok()) {
    record_.finish_reason = FinishReasonName(FinishReason::kError);
  }
  record_.target = target();
  service_->metrics_->ObserveFinished(target(), record_.finish_reason, record_.usage,
                                      record_.timings);
  service_->log_->Write(record_);
  const RouteOutcome outcome = stream_->outcome();
  // The times of one that others were asked before are not its target's.
  if (record_.status.ok() && outcome.fallbacks == 0 && outcome.target == decision_.target) {
    service_->router_->Observe(target(), record_.n, record_.usage, record_.timings);
  }
  service_->routes_.Finished(id_, decision_, outcome, prompt_);
  if (shadow_ == nullptr) return;
  service_->shadows_.Start({.id = id_,
                            .decision = decision_,
                            .request = std::move(*shadow_),
                            .prompt = std::move(prompt_),
                            .outcome = outcome,
                            .answer = std::move(answer_)});
}

Service::Service(Router* router, Metrics* metrics, RequestLog* log)
    : router_(router),
      metrics_(metrics),
      log_(log),
      routes_(router, &metrics->routes()),
      shadows_(router, &metrics->routes(), &routes_) {
  metrics_->routes().SetDispatchStats(&dispatch_stats_);
}

absl::StatusOr<Decision> Service::Explain(const GenerateRequest& request) const {
  return router_->Route(request);
}

absl::StatusOr<std::unique_ptr<Call>> Service::Start(GenerateRequest request,
                                                     const CallInfo& info) {
  RequestRecord record = NewRecord(request, info);
  GenerateRequest summary;
  summary.id = request.id;
  summary.model = request.model;
  summary.n = request.n;
  summary.arrival = request.arrival;
  const auto refuse = [&](const absl::Status& status) {
    LogRefused(record, status, summary.arrival);
    return status;
  };
  if (!ready()) return refuse(absl::UnavailableError("the server is shutting down"));
  const Clock::time_point begin = Clock::now();
  absl::StatusOr<Decision> decision = router_->Route(request);
  const double seconds = SecondsBetween(begin, Clock::now());
  if (!decision.ok()) {
    if (router_->FindPolicy(request.model) != nullptr) {
      metrics_->routes().CountFailed(request.model, decision.status());
    }
    return refuse(decision.status());
  }
  record.target = decision->target;
  record.route = decision->reason;
  std::string prompt;
  if (!decision->virtual_model.empty()) {
    metrics_->routes().CountDecision(*decision, seconds);
    prompt = routes_.PromptForLog(request);
  }
  std::unique_ptr<GenerateRequest> shadow;
  if (!decision->shadow.empty()) shadow = std::make_unique<GenerateRequest>(request);
  auto stream = RoutedStream::Start({router_, &retries_, &dispatch_stats_, &alarms_}, *decision,
                                    std::move(request));
  if (!stream.ok()) return refuse(stream.status());
  router_->Started(*decision);
  return std::make_unique<Call>(std::move(summary), *std::move(decision), *std::move(stream), info,
                                std::move(prompt), std::move(shadow), this);
}

void Service::CountMalformed(const absl::Status& status, const CallInfo& info) {
  const GenerateRequest unread;
  LogRefused(NewRecord(unread, info), status, unread.arrival);
}

void Service::LogRefused(RequestRecord record, const absl::Status& status,
                         Clock::time_point arrival) {
  metrics_->CountRefused(record.target, status);
  record.status = status;
  record.timings.total_ms = SecondsBetween(arrival, Clock::now()) * 1000;
  log_->Write(record);
}

absl::StatusOr<Engine*> Service::EngineFor(const std::string& model) const {
  GenerateRequest request;
  request.model = model;
  HOSTLER_ASSIGN_OR_RETURN(const Decision decision, router_->Route(request));
  Target* target = router_->Find(decision.target);
  const bool is_virtual = !model.empty() && decision.target != model;
  if (target == nullptr || is_virtual) {
    return absl::NotFoundError(
        fmt::format("\"{:.100}\" is a virtual model; name one that answers for it", model));
  }
  if (target->engine() == nullptr) {
    return absl::UnimplementedError(fmt::format(
        "\"{:.100}\" runs on another server (an upstream): this needs a model of this server",
        decision.target));
  }
  return target->engine();
}

std::string Service::NewId(const std::string& prefix) {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed = {device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return fmt::format("{}{:016x}{:08x}", prefix, random(), random() & 0xffffffff);
}

bool Service::ready() const { return !draining_.load(); }

void Service::SetDraining() {
  draining_.store(true);
  shadows_.Stop();
}

}  // namespace hostler
