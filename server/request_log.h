// One structured log line for each request. Never prompt or answer text.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine/request.h"

namespace hostler {

// What is written of a request when it is over.
struct RequestRecord {
  std::string id;
  std::string transport, endpoint, peer;
  std::string model;   // as asked
  std::string target;  // that answered; "" when refused
  std::string route;   // the decision's reason
  absl::Status status;
  std::string finish_reason;  // of the first sequence to end
  int n = 1;
  Usage usage;
  Timings timings;
};

// Thread-safe.
class RequestLog {
 public:
  virtual ~RequestLog() = default;
  virtual void Write(const RequestRecord& record) = 0;
};

// To stderr: key=value text, or one JSON object a line.
std::unique_ptr<RequestLog> NewRequestLog(bool json);

}  // namespace hostler
