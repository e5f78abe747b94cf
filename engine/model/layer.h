// What a decoder layer is made of: a mixer (attention, or a linear form of
// it), then a feed-forward network. Each kind is a file; the decoder strings
// them together.
#pragma once

#include "cache/expert_cache.h"
#include "engine/compute/backend.h"
#include "engine/compute/step_batch.h"
#include "engine/model/gate_lookahead.h"
#include "engine/model/model.h"
#include "engine/model/work_arena.h"

namespace hostler {

// What every part of a layer needs to compute a step.
struct StepContext {
  Backend& backend;
  const StepBatch& batch;
  const KvView& kv;
  const StateView& state;
  ExpertCache* cache;        // null for a dense model
  GateLookahead* lookahead;  // null: nobody guesses
  Mat residual;              // [rows, dim], the stream that layers read and add to
  StepResult* result;
  Mat gate_logits;  // [rows, choices], of the MoE layer before; for gate_residual

  // Lets the cache read what MoE layer `layer` may choose, if it would.
  void ReadAhead(int layer, GateLookahead::From from) const {
    if (lookahead == nullptr || !cache->WantsGuesses()) return;
    cache->Prefetch(lookahead->Guess(backend, layer, from, residual));
  }
};

// Weights are bound at construction; immutable but for its work space.
class Mixer {
 public:
  virtual ~Mixer() = default;
  // Takes its work matrices for up to `rows` rows.
  virtual void Place(WorkArena& arena, int64_t rows) = 0;
  // out = mixer(x), both [rows, dim].
  virtual void Forward(const StepContext& step, Mat x, Mat out) = 0;
};

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  virtual void Place(WorkArena& arena, int64_t rows) = 0;
  // What the backend takes of its own for so many rows.
  virtual size_t ScratchBytes(const Backend& /*backend*/, int64_t /*rows*/) const { return 0; }
  // out = ffn(x), both [rows, dim].
  virtual void Forward(const StepContext& step, Mat x, Mat out) = 0;
  // An MoE layer's gate by itself: what it would choose for x, through
  // `logits`, [rows, MoeConfig::choices()].
  virtual void Choose(Backend& /*backend*/, Mat /*x*/, Mat /*logits*/,
                      ExpertSelection* /*selection*/) {}
};

}  // namespace hostler
