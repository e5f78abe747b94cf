#include "server/shadow_traffic.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "router/policy/budget.h"
#include "router/upstream_body.h"
#include "server/service.h"

namespace hostler {
namespace {

// A machine's own models run all their sequences together, so that any that runs
// would be slowed; others are left half of their places.
bool IsBusy(const TargetSnapshot& target) {
  if (!target.available || target.waiting > 0) return true;
  if (target.local) return target.running > 0;
  return target.max_concurrency > 0 && 2 * (target.running + 1) > target.max_concurrency;
}

void AppendUpTo(size_t limit, const std::string& text, std::string* to) {
  to->append(text, 0, limit - std::min(limit, to->size()));
}

}  // namespace

ShadowTraffic::~ShadowTraffic() {
  Stop();
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ShadowTraffic::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = news_ = true;
  }
  changed_.notify_all();
}

const char* ShadowTraffic::TryBegin(const ShadowRequest& shadow, double cost_usd) {
  const std::string& model = shadow.decision.virtual_model;
  if (IsBusy(router_->Find(shadow.decision.shadow)->snapshot())) return "busy";
  std::lock_guard lock(mutex_);
  if (stopping_) return "cancelled";
  int& running = running_[model];
  if (running >= router_->options(model).shadow.concurrency) return "busy";
  Budgets* budgets = router_->FindPolicy(model)->budgets();
  if (budgets != nullptr && !budgets->TryReserve(std::nullopt, Today(), cost_usd)) {
    return "over_budget";
  }
  ++running;
  return nullptr;
}

// Undoes TryBegin.
void ShadowTraffic::GiveUp(const ShadowRequest& shadow, double cost_usd) {
  const std::string& model = shadow.decision.virtual_model;
  Budgets* budgets = router_->FindPolicy(model)->budgets();
  if (budgets != nullptr) budgets->Settle(std::nullopt, Today(), cost_usd, 0);
  std::lock_guard lock(mutex_);
  --running_[model];
}

void ShadowTraffic::Start(ShadowRequest shadow) {
  const std::string& target = shadow.decision.shadow;
  // The answer came from there, in the end.
  if (target == shadow.outcome.target) return metrics_->CountShadow(target, "same");
  const CandidateReport* report = shadow.decision.Find(target);
  const double cost = report != nullptr && std::isfinite(report->cost_usd) ? report->cost_usd : 0;
  if (const char* why_not = TryBegin(shadow, cost)) return metrics_->CountShadow(target, why_not);

  auto running = std::make_unique<Running>();
  running->id = Service::NewId("shadow-");
  running->reserved_usd = cost;
  running->sequences = std::max(shadow.request.n, 1);
  GenerateRequest request = std::move(shadow.request);
  request.id = running->id;
  request.arrival = std::chrono::steady_clock::now();
  if (request.original != nullptr && !request.original->authorization.empty()) {
    // The client does not pay for it.
    auto body = std::make_shared<UpstreamBody>(*request.original);
    body->authorization.clear();
    request.original = std::move(body);
  }
  Decision only;
  only.target = target;
  only.virtual_model = shadow.decision.virtual_model;
  auto stream =
      RoutedStream::Start({router_, &retries_, &stats_, &alarms_}, only, std::move(request));
  if (!stream.ok()) {
    GiveUp(shadow, cost);
    return metrics_->CountShadow(target, "refused");
  }
  running->stream = *std::move(stream);
  running->shadow = std::move(shadow);
  running->stream->OnReady([this] {
    {
      std::lock_guard lock(mutex_);
      news_ = true;
    }
    changed_.notify_all();
  });
  {
    std::lock_guard lock(mutex_);
    arrived_.push_back(std::move(running));
    news_ = true;
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  changed_.notify_all();
}

void ShadowTraffic::Run() {
  std::list<std::unique_ptr<Running>> all;
  for (;;) {
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return news_ || ending_; });
      news_ = false;
      for (auto& each : arrived_) all.push_back(std::move(each));
      arrived_.clear();
      if (ending_ && all.empty()) return;
      stopping = stopping_;
    }
    for (auto each = all.begin(); each != all.end();) {
      if (!Advance(each->get()) && !stopping) {
        ++each;
        continue;
      }
      Finish(each->get());
      each = all.erase(each);
    }
  }
}

bool ShadowTraffic::Advance(Running* running) {
  GenerateEvent event;
  bool any = false;
  while (running->stream->TryPop(&event)) {
    any = true;
    AppendUpTo(kMaxAnswer, event.text, &running->answer);
  }
  if (running->stream->ended()) return true;
  if (!any) return false;
  const TargetSnapshot target = router_->Find(running->shadow.decision.shadow)->snapshot();
  running->yielded = target.waiting > 0 || (target.local && target.running > running->sequences);
  return running->yielded;
}

void ShadowTraffic::Finish(Running* running) {
  running->stream->OnReady(nullptr);
  const bool cancelled = running->yielded || !running->stream->ended();
  if (cancelled) running->stream->Cancel();
  const RouteOutcome outcome = running->stream->outcome();
  const ShadowRequest& shadow = running->shadow;
  const std::string& model = shadow.decision.virtual_model;
  if (Budgets* budgets = router_->FindPolicy(model)->budgets()) {
    budgets->Settle(std::nullopt, Today(), running->reserved_usd, outcome.cost_usd);
  }
  {
    // Before anything tells that it is over: who sees that may count on its place.
    std::lock_guard lock(mutex_);
    --running_[model];
  }
  const char* result = cancelled ? "cancelled" : outcome.status.ok() ? "ok" : "failed";
  metrics_->CountShadow(shadow.decision.shadow, result);
  metrics_->AddShadowCost(shadow.decision.shadow, outcome.cost_usd);
  if (!cancelled) {
    book_->ShadowFinished({.id = running->id,
                           .real_id = shadow.id,
                           .decision = shadow.decision,
                           .outcome = outcome,
                           .real_outcome = shadow.outcome,
                           .prompt = shadow.prompt,
                           .answer = running->answer,
                           .real_answer = shadow.answer});
  }
}

}  // namespace hostler
