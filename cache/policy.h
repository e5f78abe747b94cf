// Who leaves when a slot is needed. A policy is a pure object fed with events:
// it does no I/O, takes no lock and knows no time but the order of its calls,
// so that the object that serves is the object that `hostler replay` judges.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "cache/expert_store.h"

namespace hostler {

// Not thread-safe; the ExpertCache calls it under its own lock.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;

  // One step of one layer asks for `experts` (distinct, in the engine's
  // order). Called once for each acquisition, before its victims are chosen.
  virtual void OnRequest(int layer, std::span<const int> experts) = 0;
  // `key` came into a slot.
  virtual void OnInsert(ExpertKey key) = 0;
  // `key` left its slot (it was the victim, or its read failed).
  virtual void OnErase(ExpertKey key) = 0;

  // Names the resident expert to evict among those for which `evictable`
  // is true. Returns false when there is none.
  virtual bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) = 0;
};

// Least recently requested first.
std::unique_ptr<EvictionPolicy> NewLruPolicy();

}  // namespace hostler
