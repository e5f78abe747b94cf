// What an engine tells of itself, read once for metrics and /admin/cache alike.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/engine/engine.h"
#include "router/router.h"

namespace hostler {

struct EngineSnapshot {
  std::string model;  // the target's name
  EngineStats stats;
  MemoryPlan memory;
  std::optional<ExpertReport> experts;  // nullopt: a dense model
  int max_context = 0;
};

EngineSnapshot TakeSnapshot(const std::string& model, const Engine& engine);
// Of every target with an engine here, in the router's order.
std::vector<EngineSnapshot> TakeSnapshots(const Router& router);

}  // namespace hostler
