#include "server/grpc/generate_reactor.h"

#include <optional>
#include <string>
#include <utility>

#include "engine/base/status.h"
#include "server/grpc/convert.h"

namespace hostler {
namespace {

class GenerateReactor : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                        public std::enable_shared_from_this<GenerateReactor> {
 public:
  explicit GenerateReactor(const Executor* executor) : executor_(executor) {}

  void Start(const std::string& peer, const v1::GenerateRequest& proto, Service* service) {
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
    // Weak: the stream's hold on its callback must not keep the reactor.
    call_->OnReady([weak = weak_from_this(), executor = executor_] {
      (*executor)([weak] {
        if (const auto self = weak.lock()) self->Pump();
      });
    });
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      call_->Cancel();
      FinishLocked(absl::CancelledError("the client has gone"));
      return;
    }
    PumpLocked();
  }

  void OnCancel() override {
    std::lock_guard lock(mutex_);
    if (call_ == nullptr) return;
    call_->Cancel();
    // A write in flight fails now; OnWriteDone finishes then.
    if (!writing_) FinishLocked(absl::CancelledError("the client has gone"));
  }

  void OnDone() override {
    const std::shared_ptr<GenerateReactor> self = std::move(self_);
    std::unique_ptr<Call> call;
    {
      std::lock_guard lock(mutex_);
      call = std::move(call_);
    }
    // Without the lock: it waits for a callback that may be running.
    call.reset();
  }

 private:
  static absl::StatusOr<std::unique_ptr<Call>> StartCall(const std::string& peer,
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

  void Pump() {
    std::lock_guard lock(mutex_);
    PumpLocked();
  }

  void PumpLocked() {
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

  // The messages of the next event, or of the end, into pending_.
  void FillLocked() {
    // An event with neither text, tokens nor an end says nothing to a client.
    while (pending_.empty()) {
      std::optional<GenerateEvent> event = call_->TryPop();
      const bool ended = !event.has_value() && call_->ended();
      if (!event.has_value() && !ended) return;
      if (ended && !call_->status().ok()) return FinishLocked(call_->status());
      if (!std::exchange(started_, true)) pending_.push_back(StartedLocked());
      if (ended) {
        pending_.push_back(DoneToProto(call_->usage(), call_->timings()));
        return;
      }
      std::optional<v1::GenerateResponse> finished;
      if (event->finish_reason.has_value()) finished = FinishedToProto(*event);
      if (!event->text.empty() || !event->token_ids.empty()) {
        pending_.push_back(DeltaToProto(*std::move(event)));
      }
      if (finished.has_value()) pending_.push_back(*std::move(finished));
    }
  }

  v1::GenerateResponse StartedLocked() const {
    v1::GenerateResponse response;
    v1::Started* started = response.mutable_started();
    started->set_id(call_->id());
    started->set_model(model_);
    started->set_target(call_->decision().target);
    started->set_route_reason(call_->decision().reason);
    PromptToProto(call_->prompt(), started);
    return response;
  }

  void FinishLocked(const absl::Status& status) {
    if (std::exchange(finished_, true)) return;
    Finish(ToGrpc(status));
  }

  const Executor* const executor_;
  std::shared_ptr<GenerateReactor> self_;  // until OnDone

  std::mutex mutex_;  // guards all below
  std::string model_;
  std::unique_ptr<Call> call_;
  std::deque<v1::GenerateResponse> pending_;
  v1::GenerateResponse message_;  // being written
  bool started_ = false;          // its message was made
  bool writing_ = false;
  bool finished_ = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(grpc::CallbackServerContext* context,
                                                              const v1::GenerateRequest& request,
                                                              Service* service,
                                                              const Executor* executor) {
  const auto reactor = std::make_shared<GenerateReactor>(executor);
  reactor->Start(context->peer(), request, service);
  return reactor.get();
}

}  // namespace hostler
