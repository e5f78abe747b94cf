// Target: somewhere a request can run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine/engine.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"
#include "router/upstream_stats.h"

namespace hostler {

struct Price {
  double input = 0;   // USD per million tokens
  double output = 0;  // the same
  double second = 0;  // USD for each second that the machine works: its power
};

// What a request costs, USD. `seconds` is its share of the machine's time.
constexpr double CostUsd(const Price& price, double prompt_tokens, double output_tokens,
                         double seconds) {
  return (prompt_tokens * price.input + output_tokens * price.output) / 1e6 +
         seconds * price.second;
}

enum class Health {
  kHealthy,
  kProbing,    // was ejected; the next request, or check, tells whether it is back
  kEjected,    // takes nothing until retry_after_s have passed
  kThrottled,  // asked to be left alone for retry_after_s (Retry-After)
};

// How fast a target has been lately: moving averages over finished requests.
struct ObservedSpeed {
  int64_t requests = 0;  // 0: nothing is known
  // Seconds from leaving the queue to the first token: base_s, and token_s for
  // each prompt token that no prefix cache held.
  double base_s = 0;
  double prompt_token_s = 0;
  double decode_token_s = 0;  // between two tokens of a sequence
  double service_s = 0;       // from leaving the queue to the end
  double output_tokens = 0;   // of one sequence
};

// What a policy may know of a target; a snapshot.
struct TargetSnapshot {
  std::string name;
  Price price = {};
  int max_context = 0;  // tokens; 0: not known
  bool available = true;
  int running = 0;  // sequences
  int waiting = 0;
  Health health = Health::kHealthy;
  double retry_after_s = 0;  // until it may be asked again; 0: now
  int max_concurrency = 0;   // requests running at a time, further ones wait; 0: not bounded here
  bool price_known = true;
  bool local = false;  // runs in this process
  ObservedSpeed speed = {};
};

// Thread-safe.
class Target {
 public:
  virtual ~Target() = default;
  virtual const std::string& name() const = 0;
  virtual TargetSnapshot snapshot() const = 0;
  // Errors, of the call or, later, of the stream:
  //   InvalidArgument, FieldErrors  the request's fault: no other target will do better
  //   NotFound, Unimplemented       this target cannot; another may
  //   Unavailable                   down, ejected, or its answer was none: try elsewhere
  //   DeadlineExceeded              too slow: elsewhere, if there is time
  //   ResourceExhausted             too busy: elsewhere, or here after RetryAfterSeconds()
  //   Cancelled                     by the consumer
  // A stream's failure may be retried while none of its events was passed on.
  // Those of upstreams may carry a WireError (engine/base/wire_error.h).
  virtual absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) = 0;
  // The engine behind it, for tokenizing and statistics; null when it runs
  // elsewhere.
  virtual Engine* engine() = 0;
  // Of one that runs elsewhere.
  virtual std::optional<UpstreamStats> upstream_stats() const { return std::nullopt; }
  // Lets requests under way end, at most this long, and ends the rest. Takes
  // no more.
  virtual void Drain(int timeout_ms) = 0;
};

std::unique_ptr<Target> NewLocalTarget(std::string name, Price price,
                                       std::unique_ptr<Engine> engine);

}  // namespace hostler
