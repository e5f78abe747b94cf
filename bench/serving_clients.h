// The clients of bench/serving_overhead.cc, in a process of their own.
#pragma once

#include <sys/types.h>

#include "absl/status/status.h"

namespace hostler {

struct ClientFlags {
  int clients = 64;
  int tokens = 256;
  int rounds = 2;
  int idle = 0;
  bool grpc = false;
};

struct ServerPorts {
  int http = 0, grpc = 0;
};

// Child and parent take turns: the child waits to be told, does its next part,
// and says so. Parts: warm up, open idle connections, load the server, end.
class ClientProcess {
 public:
  // Forks. REQUIRES: the process has one thread.
  explicit ClientProcess(const ClientFlags& flags);
  ~ClientProcess();  // waits for its end
  ClientProcess(const ClientProcess&) = delete;
  ClientProcess& operator=(const ClientProcess&) = delete;

  // `ports` count the first time.
  void Tell(const ServerPorts& ports);
  // Until the part that was told to begin is over. Errors: it failed.
  absl::Status Wait();

 private:
  int to_child_ = -1, from_child_ = -1;
  pid_t child_ = -1;
};

}  // namespace hostler
