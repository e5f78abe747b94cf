// The gRPC front end: hostler.v1.Hostler, grpc.health.v1 and reflection.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/service.h"

namespace hostler {

// Thread-safe.
class GrpcServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;                        // 0: a free one
    size_t max_message_bytes = 4 << 20;  // of a request
  };

  // Serves when it returns. `service` must outlive the server. Errors:
  // Unavailable when the address cannot be listened on, naming it.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options,
                                                           Service* service);
  // Stops at once, unless Stop() was called before.
  ~GrpcServer();

  int port() const;

  // Health checks answer NOT_SERVING from here on.
  void SetNotServing();

  // No new calls; running ones may end within `deadline_ms`, then they are
  // cancelled. Returns when all are over.
  void Stop(int deadline_ms);

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hostler
