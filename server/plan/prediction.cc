#include "server/plan/prediction.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "cache/replay.h"

namespace hostler {
namespace {

// Operations of a layer, whatever their size: norms, projections, rope, KV,
// attention, gate, experts, sums.
constexpr int kOperationsOfLayer = 14;
// Of the shorter of computing and reading, what does not hide behind the longer:
// a layer's attention and gate run before it is known what to read.
constexpr double kUnhidden = 0.4;
// Above this share of the time that reading the weights takes anyway, memory is
// what limits.
constexpr double kMemoryBound = 0.6;

double Seconds(const std::map<DType, uint64_t>& macs, const MachineProfile& machine, double rows) {
  double seconds = 0;
  for (const auto& [type, of_type] : macs) {
    seconds += machine.KernelSeconds(type, static_cast<double>(of_type), rows);
  }
  return seconds;
}

// Experts that `rows` rows ask of one layer, if every expert is as likely.
double UniformUnion(const ModelWork& work, int rows) {
  if (work.experts == 0) return 0;
  const double share = static_cast<double>(work.topk) / work.experts;
  return work.experts * (1 - std::pow(1 - share, rows));
}

}  // namespace

ModelWork WorkOf(const PlannedModel& planned) {
  const ModelInfo& info = planned.sketch.info;
  Model& model = *planned.sketch.decoder.model;
  const KvLayout layout = KvLayoutFor(model, planned.options);
  ModelWork work;
  work.dense_macs = planned.sketch.decoder.dense_macs;
  work.dense_bytes = model.weight_bytes();
  work.layers = info.layers;
  work.moe_layers = info.moe_layers;
  work.experts = info.experts;
  work.topk = info.experts_per_token;
  work.kv_bytes = layout.token_bytes();
  work.attention_macs = uint64_t(layout.layers) * info.heads * (layout.k_dim + layout.v_dim);
  work.step_rows = planned.options.step_tokens;
  const std::vector<ExpertLayout>& experts = planned.sketch.decoder.experts;
  for (const ExpertLayout& layer : experts) {
    const uint64_t macs = layer.dim * layer.ffn;
    for (const DType type : {layer.gate_type, layer.up_type, layer.down_type}) {
      work.expert_macs[type] += macs;
    }
    work.slot_bytes += layer.bytes / experts.size();
  }
  for (auto& [type, macs] : work.expert_macs) macs /= experts.size();
  if (const ExpertStore* store = model.experts(); store != nullptr) {
    const std::span<const Extent> extents = store->extents({0, 0});
    work.read_bytes = TotalBytes(extents);
    work.parts = static_cast<int>(extents.size());
  }
  return work;
}

int MostSequences(const PlannedModel& planned, int context) {
  const int block = KvLayoutFor(*planned.sketch.decoder.model, planned.options).block_tokens;
  const int blocks = std::max(1, (context + block - 1) / block);
  return std::max(1, std::min(planned.options.max_sequences, planned.memory.kv_blocks / blocks));
}

ResidentShares SharesOf(const MemoryPlan& plan) {
  if (plan.all_experts == 0) return {1, 0};
  const auto all = static_cast<double>(plan.all_experts);
  return {static_cast<double>(plan.experts) / all, static_cast<double>(plan.host_experts) / all};
}

HitRate UniformHitRate(const ModelWork& work, int rows, const ResidentShares& resident) {
  return {resident.computing, UniformUnion(work, rows), resident.host};
}

HitRate TraceHitRate(const ExpertTrace& trace, int sequences, double resident_share) {
  const RequestList requests(trace, sequences);
  std::set<std::pair<int, int>> seen;
  double decode_requests = 0, lookups = 0, first_uses = 0;
  for (const auto& [decode, request] : requests.items()) {
    for (const int expert : request.experts) {
      first_uses += seen.insert({request.layer, expert}).second && decode;
    }
    if (!decode) continue;
    decode_requests += 1;
    lookups += static_cast<double>(request.experts.size());
  }
  const int64_t capacity = CapacityOf(resident_share, requests.shape());
  const ExpertCounts counts{int64_t{trace.header.layers} * trace.header.topk,
                            int64_t{trace.header.layers} * trace.header.experts};
  const auto policy =
      NewEvictionPolicy(PolicyForBudget("default", capacity, counts), requests.shape());
  const ReplayCounts replayed = Replay(requests, {capacity, false, false}, policy->get());
  const double again = lookups - first_uses;
  return {again > 0 ? std::min(1.0, static_cast<double>(replayed.hits) / again) : 0,
          lookups / decode_requests};
}

HitRateRange TypicalHitRate(double resident_share) {
  // What TraceHitRate gives for qwen, gptoss and olmoe of docs/expert-cache.md.
  constexpr std::array kShares = {0.0, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0};
  constexpr std::array kLow = {0.0, 0.19, 0.27, 0.42, 0.58, 0.68, 0.76, 0.84, 0.95, 1.0};
  constexpr std::array kHigh = {0.0, 0.41, 0.54, 0.70, 0.86, 0.94, 0.99, 1.0, 1.0, 1.0};
  for (size_t i = 1; i < kShares.size(); ++i) {
    if (resident_share > kShares[i]) continue;
    const double part = (resident_share - kShares[i - 1]) / (kShares[i] - kShares[i - 1]);
    return {kLow[i - 1] + part * (kLow[i] - kLow[i - 1]),
            kHigh[i - 1] + part * (kHigh[i] - kHigh[i - 1])};
  }
  return {1, 1};
}

std::string_view StepPrediction::limit() const {
  if (disk_s > std::max(compute_s, link_s)) return "disk";
  if (link_s > compute_s) return "link";
  return memory_s > kMemoryBound * compute_s ? "memory" : "compute";
}

StepPrediction PredictStep(const ModelWork& work, const MachineProfile& machine, int rows,
                           int sequences, double context, const HitRate& rate) {
  StepPrediction step;
  const double experts = rate.experts_of_layer;
  step.compute_s = Seconds(work.dense_macs, machine, rows) +
                   work.layers * kOperationsOfLayer * machine.operation_s;
  if (experts > 0) {
    const double rows_of_expert = std::max(1.0, rows * work.topk / experts);
    step.compute_s +=
        work.moe_layers * experts * Seconds(work.expert_macs, machine, rows_of_expert);
  }
  // Attention's products run as those of f16 do, if KV comes as fast.
  const double kv_bytes = sequences * context * static_cast<double>(work.kv_bytes);
  step.compute_s += std::max(
      machine.KernelSeconds(DType::kF16, static_cast<double>(work.attention_macs) * context, rows),
      kv_bytes / machine.memory_bytes_s);
  step.memory_s = (static_cast<double>(work.dense_bytes) + kv_bytes +
                   work.moe_layers * experts * static_cast<double>(work.slot_bytes)) /
                  machine.memory_bytes_s;
  const double missed = experts * (1 - rate.hits);  // of a layer
  step.missed_bytes = work.moe_layers * missed * static_cast<double>(work.read_bytes);
  const double from_disk =
      machine.link_bytes_s > 0 ? step.missed_bytes * (1 - rate.host_hits) : step.missed_bytes;
  if (from_disk > 0) {
    const double depth = std::max(1.0, missed * work.parts);
    const double bytes_s = machine.DiskBytesPerSecond(work.read_bytes / work.parts, depth);
    step.disk_s = bytes_s > 0 ? from_disk / bytes_s : 0;
  }
  if (machine.link_bytes_s > 0) {
    const double copied = work.moe_layers * missed * static_cast<double>(work.slot_bytes);
    step.link_s = copied / machine.link_bytes_s;
    step.seconds = std::max({step.compute_s, step.link_s, step.disk_s});
    return step;
  }
  step.seconds =
      std::max(step.compute_s, step.disk_s) + kUnhidden * std::min(step.compute_s, step.disk_s);
  return step;
}

DecodePrediction PredictClients(const ModelWork& work, const MachineProfile& machine, int clients,
                                int context, const std::vector<HitRate>& rates) {
  DecodePrediction best;
  const int most = std::min(clients, static_cast<int>(rates.size()));
  for (int width = 1; width <= most;
       width = width == most ? width + 1 : std::min(2 * width, most)) {
    const HitRate& rate = rates[width - 1];
    const StepPrediction step = PredictStep(work, machine, width, width, context, rate);
    const double tokens_per_s = width / step.seconds;
    if (tokens_per_s > best.tokens_per_s) best = {clients, width, tokens_per_s, rate, step};
  }
  return best;
}

StepPrediction PredictPrompt(const ModelWork& work, const MachineProfile& machine, int tokens,
                             const ResidentShares& resident) {
  StepPrediction sum;
  for (int done = 0; done < tokens;) {
    const int rows = std::min(work.step_rows, tokens - done);
    const StepPrediction step = PredictStep(work, machine, rows, 1, done + rows / 2.0,
                                            UniformHitRate(work, rows, resident));
    sum.compute_s += step.compute_s;
    sum.memory_s += step.memory_s;
    sum.link_s += step.link_s;
    sum.disk_s += step.disk_s;
    sum.seconds += step.seconds;
    sum.missed_bytes += step.missed_bytes;
    done += rows;
  }
  return sum;
}

}  // namespace hostler
