#include "server/engine_snapshot.h"

namespace hostler {

EngineSnapshot TakeSnapshot(const std::string& model, const Engine& engine) {
  return {model, engine.stats(), engine.memory(), engine.experts(), engine.max_context()};
}

std::vector<EngineSnapshot> TakeSnapshots(const Router& router) {
  std::vector<EngineSnapshot> snapshots;
  for (const auto& target : router.targets()) {
    const Engine* engine = target->engine();
    if (engine != nullptr) snapshots.push_back(TakeSnapshot(target->name(), *engine));
  }
  return snapshots;
}

}  // namespace hostler
