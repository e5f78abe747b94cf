// One Generate call: a stream's events as gRPC messages.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "engine/engine/request.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/hostler.pb.h"
#include "server/ready_list.h"
#include "server/service.h"

namespace hostler {

// Answers one request, and deletes itself when the call is over. One message is
// being written at a time, and the next event is taken only when it is out: a
// slow client holds up its own request alone. The engine's thread only adds it
// to `ready`.
class GenerateReactor : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                        public std::enable_shared_from_this<GenerateReactor> {
 public:
  // `service` and `ready` must outlive the call.
  static GenerateReactor* Start(grpc::CallbackServerContext* context,
                                const v1::GenerateRequest& request, Service* service,
                                ReadyList<GenerateReactor>* ready);

  // Called by `ready`: the answer may go on.
  void OnNews();

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateReactor() = default;
  void Begin(const std::string& peer, const v1::GenerateRequest& proto, Service* service,
             ReadyList<GenerateReactor>* ready);
  void PumpLocked();
  // The messages of the next event, or of the end, into pending_.
  void FillLocked();
  v1::GenerateResponse StartedLocked() const;
  void FinishLocked(const absl::Status& status);

  std::shared_ptr<GenerateReactor> self_;  // until OnDone
  std::atomic<bool> is_ready_{false};      // it is in the list

  std::mutex mutex_;  // guards all below
  std::string model_;
  std::unique_ptr<Call> call_;
  GenerateEvent event_;  // the last one that was read
  std::deque<v1::GenerateResponse> pending_;
  v1::GenerateResponse message_;  // being written
  bool started_ = false;          // its message was made
  bool writing_ = false;
  bool finished_ = false;
};

}  // namespace hostler
