#include "server/grpc/generate_reactor.h"

#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "server/grpc/convert.h"

namespace hostler {
namespace {

absl::StatusOr<std::unique_ptr<Call>> StartCall(const std::string& peer,
                                                const v1::GenerateRequest& proto,
                                                Service* service) {
  const CallInfo info = {"grpc", "Generate", peer};
  absl::StatusOr<GenerateRequest> request = FromProto(proto);
  if (!request.ok()) {
    service->CountMalformed(request.status(), info);
    return request.status();
  }
  request->id = Service::NewId("gen-");
  return service->Start(*std::move(request), info);
}

}  // namespace

GenerateReactor* GenerateReactor::Start(grpc::CallbackServerContext* context,
                                        const v1::GenerateRequest& request, Service* service,
                                        ReadyList<GenerateReactor>* ready) {
  const std::shared_ptr<GenerateReactor> reactor(new GenerateReactor);
  reactor->Begin(context->peer(), request, service, ready);
  return reactor.get();
}

void GenerateReactor::Begin(const std::string& peer, const v1::GenerateRequest& proto,
                            Service* service, ReadyList<GenerateReactor>* ready) {
  self_ = shared_from_this();
  absl::StatusOr<std::unique_ptr<Call>> call = StartCall(peer, proto, service);
  if (!call.ok()) {
    std::lock_guard lock(mutex_);
    FinishLocked(call.status());
    return;
  }
  {
    std::lock_guard lock(mutex_);
    model_ = proto.model();
    call_ = *std::move(call);
  }
  // Weak: the stream's hold on its callback must not keep the reactor, whose
  // OnDone() waits for the callback.
  call_->OnReady([this, weak = weak_from_this(), ready] {
    if (!is_ready_.exchange(true)) ready->Add(weak);
  });
}

void GenerateReactor::OnNews() {
  is_ready_ = false;
  std::lock_guard lock(mutex_);
  PumpLocked();
}

void GenerateReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) {
    call_->Cancel();
    FinishLocked(absl::CancelledError("the client has gone"));
    return;
  }
  PumpLocked();
}

void GenerateReactor::OnCancel() {
  std::lock_guard lock(mutex_);
  if (call_ == nullptr) return;
  call_->Cancel();
  // A write in flight fails now; OnWriteDone finishes then.
  if (!writing_) FinishLocked(absl::CancelledError("the client has gone"));
}

void GenerateReactor::OnDone() {
  const std::shared_ptr<GenerateReactor> self = std::move(self_);
  std::unique_ptr<Call> call;
  {
    std::lock_guard lock(mutex_);
    call = std::move(call_);
  }
  // Without the lock: it waits for a callback that may be running.
  call.reset();
}

void GenerateReactor::PumpLocked() {
  if (writing_ || finished_) return;
  if (pending_.empty()) FillLocked();
  if (pending_.empty()) return;
  message_ = std::move(pending_.front());
  pending_.pop_front();
  if (message_.has_done()) {
    finished_ = true;
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    writing_ = true;
    StartWrite(&message_);
  }
}

void GenerateReactor::FillLocked() {
  // An event with neither text, tokens nor an end says nothing to a client.
  while (pending_.empty()) {
    const bool has_event = call_->TryPop(&event_);
    const bool ended = !has_event && call_->ended();
    if (!has_event && !ended) return;
    if (ended && !call_->status().ok()) return FinishLocked(call_->status());
    if (!std::exchange(started_, true)) pending_.push_back(StartedLocked());
    if (ended) {
      pending_.push_back(DoneToProto(call_->usage(), call_->timings()));
      return;
    }
    if (!event_.text.empty() || !event_.token_ids.empty()) {
      pending_.push_back(DeltaToProto(event_));
    }
    if (event_.finish_reason.has_value()) pending_.push_back(FinishedToProto(event_));
  }
}

v1::GenerateResponse GenerateReactor::StartedLocked() const {
  v1::GenerateResponse response;
  v1::Started* started = response.mutable_started();
  started->set_id(call_->id());
  started->set_model(model_);
  started->set_target(call_->decision().target);
  started->set_route_reason(call_->decision().reason);
  PromptToProto(call_->prompt(), started);
  return response;
}

void GenerateReactor::FinishLocked(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  Finish(ToGrpc(status));
}

}  // namespace hostler
