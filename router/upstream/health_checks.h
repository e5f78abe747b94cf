// HealthChecks: asks an upstream, again and again, whether it is there.
#pragma once

#include <memory>
#include <string>

#include "router/net/wakeup.h"
#include "router/upstream/core.h"
#include "router/upstream/http_call.h"

namespace hostler {

class HealthChecks : public std::enable_shared_from_this<HealthChecks> {
 public:
  explicit HealthChecks(std::shared_ptr<UpstreamCore> core);

  // Until Stop(). Any thread, both.
  void Start();
  void Stop();

 private:
  static Task<void> Run(std::shared_ptr<HealthChecks> self);
  Task<void> CheckOnce();
  std::string RequestText() const;

  const std::shared_ptr<UpstreamCore> core_;
  // The I/O thread's.
  Wakeup wakeup_;
  std::unique_ptr<HttpCall> call_;
  bool stopped_ = false;
};

}  // namespace hostler
