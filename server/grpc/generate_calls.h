// Generate calls: streams' events as gRPC messages.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "boost/asio/thread_pool.hpp"
#include "grpcpp/alarm.h"
#include "grpcpp/completion_queue.h"
#include "proto/hostler.grpc.pb.h"
#include "server/ready_list.h"
#include "server/service.h"

namespace hostler {

// Generate is served from a completion queue: with callbacks gRPC wakes a thread
// for each message that was written.
using HostlerMethods =
    v1::Hostler::WithAsyncMethod_Generate<v1::Hostler::WithCallbackMethod_Tokenize<
        v1::Hostler::WithCallbackMethod_ListModels<v1::Hostler::Service>>>;

class GenerateCall;

// All of a server's. One thread writes their messages and is woken once for all
// that have news; others parse and tokenize. Of one call one message is being
// written at a time, and its next event is taken only when that is out: a slow
// client holds up its own request alone.
class GenerateCalls {
 public:
  // `methods` and `service` must outlive this; `queue` is one of the server's.
  GenerateCalls(HostlerMethods* methods, Service* service,
                std::unique_ptr<grpc::ServerCompletionQueue> queue);
  // After the server was shut down, if it was ever started: waits for all calls.
  ~GenerateCalls();

  // Takes calls from now on. The server has been started.
  void Start();

 private:
  friend class GenerateCall;
  // What the queue gives back.
  struct Tag {
    void* object;
    void (*run)(void* object, bool ok);
  };

  void Run();
  void RequestNext();

  HostlerMethods* const methods_;
  Service* const service_;
  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::atomic<int> live_{0};  // calls, the one that is waited for included
  boost::asio::thread_pool starters_{8};

  ReadyList<GenerateCall> ready_;
  grpc::Alarm alarm_;
  Tag on_alarm_;
  std::thread thread_;
};

}  // namespace hostler
