// Who leaves when a slot is needed. A policy is a pure object fed with events:
// it does no I/O, takes no lock and knows no time but the order of its calls,
// so that the object that serves is the object that `hostler replay` judges.
//
// The reference for the definitions is docs/expert-cache.md.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"

namespace hostler {

// One step of one layer asks for experts.
struct ExpertRequest {
  int layer = 0;
  std::span<const int> experts;  // distinct, in the engine's order

  // The choices of the step's tokens, where known: token t chose
  // chosen[offsets[t] .. offsets[t+1]), in the same order in every layer of the
  // step. Empty: one token, which chose `experts`.
  std::span<const int> offsets;
  std::span<const int> chosen;
  int sequences = 1;  // that the tokens belong to
  int decodes = 0;    // the first tokens, one of each sequence that generates, where prompts follow

  int num_tokens() const { return offsets.empty() ? 1 : static_cast<int>(offsets.size()) - 1; }
  std::span<const int> token(int t) const {
    return offsets.empty() ? experts
                           : chosen.subspan(offsets[t], size_t(offsets[t + 1] - offsets[t]));
  }
};

// Layers and experts that a policy may be told of.
struct PolicyShape {
  int layers = 0;
  int experts = 0;  // of the layer that has most
};

// How often each expert is used: what a cache may start warm with. The owner
// saves it between runs.
struct Popularity {
  int layers = 0;
  int experts = 0;
  std::vector<float> rate;  // [layers, experts], uses per token, 0 to 1
};

// Not thread-safe; the ExpertCache calls it under its own lock. Layers and
// experts named are within the shape it was made for. Allocates nothing once
// every expert was named, so it may be called inside a step.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;

  // Called once for each acquisition, before its victims are chosen.
  virtual void OnRequest(const ExpertRequest& request) = 0;
  // `key` came into a slot.
  virtual void OnInsert(ExpertKey key) = 0;
  // `key` left its slot (it was the victim, or its read failed).
  virtual void OnErase(ExpertKey key) = 0;

  // Names the resident expert to evict among those for which `evictable`
  // is true. Returns false when there is none.
  virtual bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) = 0;

  // Whether `incoming`, a missing member of the running request, is worth more
  // than `victim`, which PickVictim just named. False (bypass): better to use
  // it from a buffer and keep the victim.
  virtual bool Admits(ExpertKey /*incoming*/, ExpertKey /*victim*/) const { return true; }

  // Empty from a policy that counts no uses.
  virtual Popularity ExportPopularity() const { return {}; }
  // Before the first request; what does not fit the shape is ignored.
  virtual void ImportPopularity(const Popularity& /*popularity*/) {}
};

// Least recently requested first.
std::unique_ptr<EvictionPolicy> NewLruPolicy();
// Fewest uses for the age of the last one.
std::unique_ptr<EvictionPolicy> NewLfruPolicy(PolicyShape shape);
// Lowest moving average of use. `rate` per token of a single sequence.
std::unique_ptr<EvictionPolicy> NewEmaPolicy(PolicyShape shape, double rate = 0.1);
// Farthest expected next use, from the age of the last use and its average.
std::unique_ptr<EvictionPolicy> NewForwardDistancePolicy(PolicyShape shape);
// Lowest chance of use for the time until then; the chance is learned online
// from averages, ages and what followed similar tokens before.
std::unique_ptr<EvictionPolicy> NewLearnedPolicy(PolicyShape shape);

// The names NewEvictionPolicy knows; the first is the default.
std::span<const std::string_view> EvictionPolicyNames();

// "default" is the first of EvictionPolicyNames(). Errors: InvalidArgument
// that names what there is.
absl::StatusOr<std::unique_ptr<EvictionPolicy>> NewEvictionPolicy(std::string_view name,
                                                                  PolicyShape shape);

// Experts that a budget is measured against.
struct ExpertCounts {
  int64_t cycle = 0;  // one token's: layers x experts per token
  int64_t all = 0;
};

// The policy to serve with when an operator asked for `name`. With fewer slots
// than one token's cycle LRU hits nothing, so the default stands in for it. With
// slots for all nobody ever leaves, so LRU, which costs least, stands in.
std::string_view PolicyForBudget(std::string_view name, int64_t slots, const ExpertCounts& counts);

// As `policy`, but the experts of `pinned` never leave once they are resident.
// They need slots of their own: no more than the cache has, less what the
// largest acquisition needs.
std::unique_ptr<EvictionPolicy> NewPinningPolicy(std::unique_ptr<EvictionPolicy> policy,
                                                 std::span<const ExpertKey> pinned);

}  // namespace hostler
