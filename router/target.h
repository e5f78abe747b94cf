// Target: somewhere a request can run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine/engine.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"

namespace hostler {

// USD per million tokens.
struct Price {
  double input = 0;
  double output = 0;
};

// What a policy may know of a target; a snapshot.
struct TargetSnapshot {
  std::string name;
  Price price;
  int max_context = 0;  // tokens; 0: not known
  bool available = true;
  int running = 0;  // sequences
  int waiting = 0;
};

// Thread-safe.
class Target {
 public:
  virtual ~Target() = default;
  virtual const std::string& name() const = 0;
  virtual TargetSnapshot snapshot() const = 0;
  // Errors: the target's own (FieldErrors, ResourceExhausted, Unavailable).
  virtual absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) = 0;
  // The engine behind it, for tokenizing and statistics; null when it runs
  // elsewhere.
  virtual Engine* engine() = 0;
};

std::unique_ptr<Target> NewLocalTarget(std::string name, Price price,
                                       std::unique_ptr<Engine> engine);

}  // namespace hostler
