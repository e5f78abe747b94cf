// Predicts how fast a model will be served from its sizes, its division of
// memory, hit rates and a machine profile. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cache/trace.h"
#include "engine/engine/model_needs.h"
#include "server/plan/machine_profile.h"

namespace hostler {

// What one row of a step costs.
struct ModelWork {
  std::map<DType, uint64_t> dense_macs;     // outside the experts and attention itself
  std::map<DType, uint64_t> expert_macs;    // of one expert, mean over the layers
  uint64_t dense_bytes = 0;                 // read once a step
  uint64_t slot_bytes = 0, read_bytes = 0;  // of one expert: in memory, from disk
  int parts = 1;                            // of a read
  int layers = 0, moe_layers = 0, experts = 0, topk = 0;
  uint64_t kv_bytes = 0;        // of a token, all layers
  uint64_t attention_macs = 0;  // for each token that a row looks back at
  int step_rows = 0;            // at most
};
ModelWork WorkOf(const PlannedModel& planned);

// Sequences of `context` tokens that can decode together: what max_sequences
// and KV allow, one at least.
int MostSequences(const PlannedModel& planned, int context);

// What the steps of so many sequences find in memory.
struct HitRate {
  double hits = 1;              // of a step's lookups
  double experts_of_layer = 0;  // that a step asks one layer for, mean
  double host_hits = 0;         // with a link: of the misses, in the host's memory
};

// What share of all experts is in the memory of what computes, and, where that is a GPU,
// in the host's.
struct ResidentShares {
  double computing = 1, host = 0;
};
ResidentShares SharesOf(const MemoryPlan& plan);

// If every expert is as likely: what is resident.
HitRate UniformHitRate(const ModelWork& work, int rows, const ResidentShares& resident);
// Of the default policy on a trace of this model, first uses left out.
// REQUIRES: the trace has the model's layers and experts, and decode tokens for
// `sequences`.
HitRate TraceHitRate(const ExpertTrace& trace, int sequences, double resident_share);
// Lowest and highest of three public models' traces, one sequence, first uses
// left out (docs/expert-cache.md).
struct HitRateRange {
  double low = 0, high = 0;
};
HitRateRange TypicalHitRate(double resident_share);

struct StepPrediction {
  double compute_s = 0;  // kernels, with weights in memory
  double memory_s = 0;   // to read those bytes alone
  double link_s = 0;     // to bring what is missed from the host's memory, with a link
  double disk_s = 0;     // to read what is missed (with a link: there, too)
  double seconds = 0;
  double missed_bytes = 0;
  std::string_view limit() const;  // "disk", "link", "memory", "compute"
};

// A step of `rows` rows of so many sequences, each of which looks back at
// `context` tokens. With a link it takes as long as the longest of computing, the link and
// the disk.
StepPrediction PredictStep(const ModelWork& work, const MachineProfile& machine, int rows,
                           int sequences, double context, const HitRate& rate);

struct DecodePrediction {
  int clients = 0, width = 0;  // sequences that decode together
  double tokens_per_s = 0;     // of all
  HitRate rate;
  StepPrediction step;
};
// With the width that gives most, as the scheduler chooses it, of up to
// rates.size() sequences; `rates[rows - 1]` for the widths tried: powers of two,
// and all.
DecodePrediction PredictClients(const ModelWork& work, const MachineProfile& machine, int clients,
                                int context, const std::vector<HitRate>& rates);

// All of a prompt, in steps of work.step_rows.
StepPrediction PredictPrompt(const ModelWork& work, const MachineProfile& machine, int tokens,
                             const ResidentShares& resident);

}  // namespace hostler
