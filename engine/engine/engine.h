// Engine: a loaded model and the loop that serves it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_cache.h"
#include "cache/hybrid.h"
#include "cache/latency.h"
#include "cache/miss_ratio.h"
#include "cache/reader.h"
#include "engine/compute/graph_counts.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"
#include "engine/model/model_info.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace hostler {

class Backend;

enum class Quantize { kNone, kQ8 };

enum class KvType { kF16, kBF16, kQ8 };

// Which experts are read before a layer asks for them.
enum class Prefetch {
  kAuto,         // what the next layer's gate makes of the state now, while that pays
  kGate,         // the same, always
  kTransitions,  // what followed the experts of the layer before, always
  kOff,
};

struct EngineOptions {
  // Bounds weights, KV, experts and work space together; 0: 80% of what this
  // process may use. With a device of its own memory: what lies on the host.
  uint64_t memory_bytes = 0;
  // What computes, as engine/device.h has it: "cpu", "cuda", "cuda:1", "auto", ...
  std::string device = "cpu";
  // Of a GPU's memory: bounds weights, KV, experts and work space there together; 0: 90%
  // of what is free.
  uint64_t device_memory_bytes = 0;
  uint64_t expert_memory_bytes = 0;  // 0: what KV leaves, at most all experts
  // With a device of its own memory: DRAM for experts beneath those there; nullopt: what
  // the rest of the host's side leaves of memory_bytes, at most all experts.
  std::optional<uint64_t> host_expert_memory_bytes = {};
  // With those: whether the host computes experts that the device lacks.
  Hybrid hybrid = Hybrid::kAuto;
  uint64_t kv_memory_bytes = 0;  // 0: chosen from what is left
  // Where neither of the two is given, the split between KV and experts moves
  // while serving.
  bool move_memory = true;
  // KV that was computed is found again by the tokens before it. Not for models
  // with recurrent state.
  bool prefix_cache = true;
  Prefetch expert_prefetch = Prefetch::kAuto;
  // One that NewEvictionPolicy knows; "default" and "lru" as PolicyForBudget
  // says, any other as named.
  std::string expert_policy = "default";
  ReaderOptions::Method expert_io = ReaderOptions::Method::kAuto;
  DirectIo expert_direct_io = DirectIo::kAuto;
  std::string expert_pins;  // a file of experts that never leave (cache/pins.h); "": none
  // Where to keep, from run to run, which experts are used most: a file, "auto"
  // (popularity.bin in a packed store, else off) or "off".
  std::string expert_popularity = "off";
  // At the start, read all experts while nobody waits for a read, if there is room for all.
  bool expert_preload = false;
  // A file to record gates' choices in ("": none), and how large it may grow.
  std::string expert_trace;
  uint64_t expert_trace_bytes = uint64_t{256} << 20;
  int threads = 0;  // 0: the cores this process may use
  Quantize quantize = Quantize::kNone;
  KvType kv_type = KvType::kF16;  // what keys and values are kept in, unless `precise`
  bool precise = false;           // f32 activations and KV over the weights as stored
  std::string kernels = "auto";   // as NewCpuBackend's isa; "auto": the CPU's best
  // Makes what computes in place of `device`, for tests. Null: as `device` says.
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> new_backend;
  std::string chat_template;       // a file with one to use; "": the model's own
  int max_context = 0;             // tokens of one sequence; 0: the model's
  int max_sequences = 256;         // running at a time
  int step_tokens = 512;           // rows of a step at most
  int max_queue = 4096;            // sequences waiting; more are refused
  int decode_width = 0;            // sequences that generate in one step; 0: chosen by measurement
  int max_decode_wait_ms = 20000;  // of a running sequence, for others' turns
  // Aimed at between two tokens while prompts come in, which are cut accordingly;
  // 0: a chunk is a whole step.
  int decode_gap_ms = 500;
  // Told what an operator should know and no request's error says. Called by
  // Load and by any of the engine's threads; null: nobody is told.
  std::function<void(const std::string& text)> on_warning;
  // What experts are read through, made of the reader that would serve: for tests
  // and measurements that slow it down or let it fail. Null: that reader.
  std::function<std::unique_ptr<Reader>(std::unique_ptr<Reader>)> wrap_reader;
};

// What steps are like and how long they make clients wait.
struct ScheduleStats {
  int width = 0;                    // sequences that generated in the last step that had any
  uint64_t slices = 0;              // turns that ended: width was below what could have run
  uint64_t probes = 0;              // other widths tried
  double longest_wait_seconds = 0;  // of a running sequence, between two of its steps
};

// Load and counters, consistent as of the end of a step. Counters only grow.
struct EngineStats {
  int running = 0;  // sequences in the batch
  int waiting = 0;  // sequences queued
  int paused = 0;   // running ones whose client reads slowly
  int kv_blocks_total = 0;
  int kv_blocks_used = 0;
  int kv_blocks_cached = 0;            // hold what may be found again, and nobody uses them
  uint64_t prefix_queried_tokens = 0;  // of prompts, looked for in the prefix cache
  uint64_t prefix_found_tokens = 0;    // of them, found
  uint64_t prefix_evictions = 0;       // cached blocks given up for a free one
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;  // prefilled, recomputation included
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  double step_seconds = 0;  // spent computing
  ScheduleStats schedule;
  ExpertCacheStats experts;
  GraphCounts graphs;
};

// What keeps a model's experts in memory, beyond what EngineStats counts.
struct ExpertReport {
  std::string policy;      // the eviction policy's name
  std::string reader;      // "io_uring", "pread"
  bool direct_io = false;  // past the page cache
  struct Layer {
    uint64_t resident_bytes = 0;  // in slots
    uint64_t bytes = 0;           // that all its experts would take
  };
  std::vector<Layer> layers;  // the MoE layers
  // From when a step first waited for an expert until it could be used.
  LatencyHistogram demand_reads;
  // What share of decode's lookups other capacities would miss; empty until a
  // token was decoded.
  std::vector<MissRatioPoint> miss_ratios;
};

// How the memory budget was divided, bytes. With a device of its own memory all but what
// begins with "host" is there.
struct MemoryPlan {
  std::string device;  // "": the host's memory is what computes
  uint64_t budget = 0;
  uint64_t weights = 0;     // everything but the experts
  uint64_t work_space = 0;  // activations of one step, staging
  uint64_t kv = 0;
  uint64_t experts = 0;          // slots
  uint64_t all_experts = 0;      // what would hold every expert
  uint64_t slot = 0;             // one expert; 0: a dense model
  int layer_experts = 0;         // most that a step may ask of one layer
  uint64_t host_budget = 0;      // of the next two; all 0 without a device
  uint64_t host_work_space = 0;  // what is read, and what goes to and from the device
  uint64_t host_experts = 0;     // slots in DRAM beneath those of the device
  std::string ToString() const;  // one line, for the log and for errors
};

// Thread-safe. Every stream a Submit returned ends before the destructor does.
class Engine {
 public:
  // Loads the model at `path`. Errors: what the loaders say;
  // ResourceExhausted with the numbers when it does not fit the budget.
  static absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& path,
                                                      const EngineOptions& options);
  virtual ~Engine() = default;

  // Checks and queues a request. Errors: FieldErrors for what the model cannot
  // do (too long a prompt, ids outside the vocabulary, ...);
  // ResourceExhausted when the queue is full; Unavailable once draining.
  virtual absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) = 0;

  // Prompt → ids, as Submit would do it. Errors: FieldErrors.
  virtual absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const GenerateRequest& request) const = 0;

  // Logits of every position, f32 [tokens, vocab], for golden comparisons and
  // perplexity. Runs in the loop like any request, prefilling in chunks.
  virtual absl::StatusOr<std::vector<float>> Logits(const std::vector<int32_t>& tokens) = 0;

  // No more Submits; returns when all requests have ended or `deadline_ms` has
  // passed, in which case the rest is ended with Unavailable.
  virtual void Drain(int deadline_ms) = 0;

  virtual EngineStats stats() const = 0;
  // Nullopt for a dense model. Waits for no read and no step.
  virtual std::optional<ExpertReport> experts() const = 0;
  virtual const ModelInfo& model() const = 0;
  // As it is divided now.
  virtual MemoryPlan memory() const = 0;
  // Moves the split while serving: experts may take `bytes`, KV what they leave.
  // KV follows as sequences allow; prompts longer than it holds are refused from
  // now on. Returns the new division. Errors: InvalidArgument naming the
  // bounds; FailedPrecondition for a dense model.
  virtual absl::StatusOr<MemoryPlan> SetExpertMemory(uint64_t bytes) = 0;
  virtual int max_context() const = 0;
  // Null when the model has none beside its weights.
  virtual const Tokenizer* tokenizer() const = 0;
};

}  // namespace hostler
