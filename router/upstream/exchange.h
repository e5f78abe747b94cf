// Exchange: one request to an upstream, from its place in the queue to its end.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "engine/engine/stream.h"
#include "router/net/wakeup.h"
#include "router/upstream/answer_reader.h"
#include "router/upstream/core.h"
#include "router/upstream/encode.h"
#include "router/upstream/http_call.h"
#include "router/upstream/sse.h"

namespace hostler {

// The producer of its GenerateStream. Lives until the request is over.
class Exchange : public UpstreamTurn, public std::enable_shared_from_this<Exchange> {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // `prompt_tokens`: about, should the upstream not tell.
  Exchange(std::shared_ptr<UpstreamCore> core, EncodedRequest encoded,
           const GenerateRequest& request, int prompt_tokens);

  // After UpstreamCore::Enter. Never blocks.
  std::shared_ptr<GenerateStream> Start();

  void OnTurn() override;

 private:
  static Task<void> Run(std::shared_ptr<Exchange> self);
  Task<absl::Status> WaitForTurn();
  // Sends and reads; the steps of it are below.
  Task<absl::Status> Ask();
  Task<absl::Status> ReadError();
  Task<absl::Status> ReadWhole();
  Task<absl::Status> ReadStream();
  // Reads what is left of the response, so that its connection can be used again.
  Task<void> ReadRest();

  // Takes one event's data. True: it was "[DONE]".
  absl::StatusOr<bool> TakeData(std::string data);
  absl::Status CheckComplete() const;
  void Push(std::vector<GenerateEvent>* events);
  Task<void> AwaitRoom();
  TimePoint ReadDeadline() const;

  std::string RequestText() const;
  // Why it must stop, if it must: cancelled, or stopped by the core.
  absl::Status Interruption();
  void Wake();
  void End(absl::Status status);
  absl::Status Fail(UpstreamFailure failure, absl::Status status);
  absl::Status Broken(UpstreamFailure failure, std::string_view what);

  // Each may be of options_.max_event_bytes.
  static constexpr size_t kMaxEvents = 64;

  const std::shared_ptr<UpstreamCore> core_;
  const UpstreamOptions& options_;
  const EncodedRequest encoded_;
  const std::string id_;
  const std::string authorization_;
  const bool own_key_;
  const TimePoint arrival_;
  const int prompt_tokens_;
  const std::shared_ptr<GenerateStream> stream_ = std::make_shared<GenerateStream>(kMaxEvents);

  // The I/O thread's.
  Wakeup wakeup_;
  HttpCall call_;
  AnswerReader answer_;
  SseReader events_;
  UpstreamOutcome outcome_;
  TimePoint sent_{}, first_token_{}, last_event_{};
};

}  // namespace hostler
