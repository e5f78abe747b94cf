// One Generate call: a stream's events as gRPC messages.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/hostler.pb.h"
#include "server/service.h"

namespace hostler {

// Runs a task on some thread other than the caller's.
using Executor = std::function<void(std::function<void()>)>;

// Starts the request and returns the reactor that answers it, which deletes
// itself when the call is over. One message is being written at a time, and
// the next event is taken only when it is out: a slow client holds up its own
// request alone. The engine's thread only hands a task to `executor`.
// `service` and `executor` must outlive the call.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(grpc::CallbackServerContext* context,
                                                              const v1::GenerateRequest& request,
                                                              Service* service,
                                                              const Executor* executor);

}  // namespace hostler
