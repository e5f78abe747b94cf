#include "server/grpc/generate_calls.h"

#include <deque>
#include <string>
#include <utility>

#include "boost/asio/post.hpp"
#include "engine/base/status.h"
#include "server/grpc/convert.h"
#include "server/route_report.h"

namespace hostler {

// One call, from the wait for it on. Used by the queue's thread alone, but for
// Begin(). It keeps itself until nothing of it is under way.
class GenerateCall : public std::enable_shared_from_this<GenerateCall> {
 public:
  explicit GenerateCall(GenerateCalls* calls) : calls_(*calls) { ++calls_.live_; }
  ~GenerateCall() {
    --calls_.live_;
    calls_.live_.notify_all();
  }

  void WaitForRequest() {
    self_ = shared_from_this();
    grpc::ServerCompletionQueue* queue = calls_.queue_.get();
    context_.AsyncNotifyWhenDone(&done_tag_);
    calls_.methods_->RequestGenerate(&context_, &request_, &writer_, queue, queue, &request_tag_);
  }

  // Called by the list: it has begun, or the answer may go on.
  void OnNews() {
    is_ready_ = false;
    if (std::exchange(is_beginning_, false) && !over_) {
      if (begun_.ok()) {
        call_ = *std::move(begun_);
        // Weak: the stream's hold on its callback must not keep the call.
        call_->OnReady([this, weak = weak_from_this()] {
          if (!is_ready_.exchange(true)) calls_.ready_.Add(weak);
        });
      } else {
        Finish(begun_.status());
      }
    }
    Pump();
    ReleaseIfOver();
  }

 private:
  using Tag = GenerateCalls::Tag;

  template <void (GenerateCall::*Method)(bool)>
  Tag MakeTag() {
    return {this, [](void* call, bool ok) {
              // It may let go of itself.
              const auto self = static_cast<GenerateCall*>(call)->shared_from_this();
              (self.get()->*Method)(ok);
              self->ReleaseIfOver();
            }};
  }

  void OnRequest(bool ok) {
    if (!ok) {  // the server shuts down
      over_ = done_ = true;
      return;
    }
    calls_.RequestNext();
    is_beginning_ = true;
    boost::asio::post(calls_.starters_, [self = shared_from_this()] {
      self->begun_ = self->Begin();
      self->calls_.ready_.Add(self);
    });
  }

  // Any thread: parses and tokenizes.
  absl::StatusOr<std::unique_ptr<Call>> Begin() const {
    const CallInfo info = {"grpc", "Generate", context_.peer()};
    absl::StatusOr<GenerateRequest> request = FromProto(request_);
    if (!request.ok()) {
      calls_.service_->CountMalformed(request.status(), info);
      return request.status();
    }
    request->id = Service::NewId("gen-");
    return calls_.service_->Start(*std::move(request), info);
  }

  void OnWritten(bool ok) {
    is_writing_ = false;
    if (!ok) over_ = true;  // the client has gone
    Pump();
  }

  void OnFinished(bool) { is_writing_ = false; }

  // The call is over, by its end or because the client has gone.
  void OnDone(bool) { over_ = done_ = true; }

  void Pump() {
    if (call_ == nullptr || is_writing_ || over_) return;
    if (pending_.empty()) Fill();
    if (pending_.empty()) return;
    message_ = std::move(pending_.front());
    pending_.pop_front();
    is_writing_ = true;
    if (message_.has_done()) {
      over_ = true;
      writer_.WriteAndFinish(message_, grpc::WriteOptions(), grpc::Status::OK, &finished_tag_);
    } else {
      writer_.Write(message_, &written_tag_);
    }
  }

  // The messages of the next event, or of the end, into pending_.
  void Fill() {
    // An event with neither text, tokens nor an end says nothing to a client.
    while (pending_.empty()) {
      const bool has_event = call_->TryPop(&event_);
      const bool ended = !has_event && call_->ended();
      if (!has_event && !ended) return;
      if (ended && !call_->status().ok()) return Finish(call_->status());
      if (!std::exchange(started_, true)) pending_.push_back(Started());
      if (ended) {
        pending_.push_back(DoneToProto(call_->usage(), call_->timings()));
        if (request_.explain()) {
          *pending_.back().mutable_done()->mutable_explanation_json() =
              ExplanationText(call_->decision(), call_->outcome());
        }
        return;
      }
      if (!event_.text.empty() || !event_.token_ids.empty()) {
        pending_.push_back(DeltaToProto(event_));
      }
      if (event_.finish_reason.has_value()) pending_.push_back(FinishedToProto(event_));
    }
  }

  v1::GenerateResponse Started() const {
    v1::GenerateResponse response;
    v1::Started* started = response.mutable_started();
    started->set_id(call_->id());
    started->set_model(request_.model());
    started->set_target(call_->target());
    started->set_route_reason(call_->decision().reason);
    PromptToProto(call_->prompt(), started);
    return response;
  }

  void Finish(const absl::Status& status) {
    over_ = is_writing_ = true;
    writer_.Finish(ToGrpc(status), &finished_tag_);
  }

  void ReleaseIfOver() {
    if (over_ && !is_writing_) call_.reset();  // cancels what still runs
    if (done_ && !is_writing_ && !is_beginning_) self_.reset();
  }

  GenerateCalls& calls_;
  std::shared_ptr<GenerateCall> self_;
  std::atomic<bool> is_ready_{false};  // it is in the list

  grpc::ServerContext context_;
  v1::GenerateRequest request_;
  grpc::ServerAsyncWriter<v1::GenerateResponse> writer_{&context_};
  Tag request_tag_ = MakeTag<&GenerateCall::OnRequest>();
  Tag written_tag_ = MakeTag<&GenerateCall::OnWritten>();
  Tag finished_tag_ = MakeTag<&GenerateCall::OnFinished>();
  Tag done_tag_ = MakeTag<&GenerateCall::OnDone>();

  bool is_beginning_ = false;  // Begin() is under way, or its result not yet taken
  absl::StatusOr<std::unique_ptr<Call>> begun_ = absl::UnknownError("");
  std::unique_ptr<Call> call_;
  GenerateEvent event_;  // the last one that was read
  std::deque<v1::GenerateResponse> pending_;
  v1::GenerateResponse message_;  // being written
  bool started_ = false;          // its message was made
  bool is_writing_ = false;       // a message, or the end
  bool over_ = false;             // nothing more will be written
  bool done_ = false;             // nothing but a write can come from the queue
};

GenerateCalls::GenerateCalls(HostlerMethods* methods, Service* service,
                             std::unique_ptr<grpc::ServerCompletionQueue> queue)
    : methods_(methods),
      service_(service),
      queue_(std::move(queue)),
      ready_([this] { alarm_.Set(queue_.get(), gpr_time_0(GPR_CLOCK_MONOTONIC), &on_alarm_); }),
      on_alarm_{this, [](void* calls, bool) { static_cast<GenerateCalls*>(calls)->ready_.Run(); }} {
}

GenerateCalls::~GenerateCalls() {
  for (int live = live_; live > 0; live = live_) live_.wait(live);
  starters_.join();
  queue_->Shutdown();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    Run();
  }
}

void GenerateCalls::Start() {
  RequestNext();
  thread_ = std::thread([this] { Run(); });
}

void GenerateCalls::Run() {
  void* tag = nullptr;
  for (bool ok = false; queue_->Next(&tag, &ok);) {
    const Tag& got = *static_cast<Tag*>(tag);
    got.run(got.object, ok);
  }
}

void GenerateCalls::RequestNext() { std::make_shared<GenerateCall>(this)->WaitForRequest(); }

}  // namespace hostler
