#include "server/expert_collector.h"

#include <string>
#include <utility>

#include "cache/miss_ratio.h"
#include "fmt/format.h"
#include "server/expert_reads.h"
#include "server/metric_family.h"

namespace hostler {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr MetricType kGauge = MetricType::Gauge;
constexpr MetricType kCounter = MetricType::Counter;
// Bounds of the read histogram that go into one of its metric's buckets: with
// four, bounds double.
constexpr int kBucketsInOne = 4;

using Family = MetricFamilyBuilder;
using Labels = MetricFamilyBuilder::Labels;

Labels LabelsOf(const EngineSnapshot& engine) {
  return {{"model_name", engine.model}, {"tier", engine.memory.device.empty() ? "dram" : "hbm"}};
}

// A number of ExpertCacheStats, by class where `name` is said.
struct Number {
  const char* read_class;  // null: of all
  double (*read)(const ExpertCacheStats& stats);
};

struct NumberFamily {
  const char* name;
  MetricType type;
  const char* help;
  std::vector<Number> numbers;
};

const std::vector<NumberFamily>& NumberFamilies() {
  using S = const ExpertCacheStats&;
  static const std::vector<NumberFamily> families = {
      {"hits_total",
       kCounter,
       "Experts that were resident when a step asked for them; speculative: a guess had read them.",
       {{"demand", [](S s) { return double(s.hits - s.speculative_hits); }},
        {"speculative", [](S s) { return double(s.speculative_hits); }}}},
      {"misses_total",
       kCounter,
       "Experts that were not resident when a step asked for them; speculative: a guess's read was "
       "under way.",
       {{"demand", [](S s) { return double(s.misses - s.speculative_late); }},
        {"speculative", [](S s) { return double(s.speculative_late); }}}},
      {"evictions_total",
       kCounter,
       "Experts evicted.",
       {{nullptr, [](S s) { return double(s.evictions); }}}},
      {"useful_bytes_total",
       kCounter,
       "Bytes read on a guess that came true.",
       {{"speculative", [](S s) { return double(s.speculative_useful_bytes); }}}},
      {"wasted_bytes_total",
       kCounter,
       "Bytes read on a guess that left without having been asked for.",
       {{"speculative", [](S s) { return double(s.speculative_wasted_bytes); }}}},
      {"wasted_reads_total",
       kCounter,
       "Reads on a guess that left or failed without having been asked for.",
       {{"speculative", [](S s) { return double(s.speculative_wasted); }}}},
      {"read_errors_total",
       kCounter,
       "Expert reads that failed.",
       {{nullptr, [](S s) { return double(s.read_errors); }}}},
      {"read_retries_total",
       kCounter,
       "Expert reads begun again after an error or a wrong checksum.",
       {{nullptr, [](S s) { return double(s.read_retries); }}}},
      {"stall_seconds_total",
       kCounter,
       "Time steps waited for experts with nothing to compute.",
       {{nullptr, [](S s) { return s.stall_seconds; }}}},
      {"resident_bytes",
       kGauge,
       "Expert bytes in slots.",
       {{nullptr, [](S s) { return double(s.resident_bytes); }}}},
      {"capacity_bytes",
       kGauge,
       "Bytes that slots may take.",
       {{nullptr, [](S s) { return double(s.capacity_bytes); }}}},
      {"model_bytes",
       kGauge,
       "Bytes that all experts of the model would take.",
       {{nullptr, [](S s) { return double(s.model_bytes); }}}},
      {"pinned_slots",
       kGauge,
       "Slots that a step holds.",
       {{nullptr, [](S s) { return double(s.pinned_slots); }}}},
      {"locked",
       kGauge,
       "1: slots cannot be swapped out.",
       {{nullptr, [](S s) { return double(s.locked); }}}},
      {"prefetch_least_chance",
       kGauge,
       "What the chance of a guess must be to be read; above 1: none is read.",
       {{"speculative", [](S s) { return double(s.prefetch.least_chance); }}}},
      {"prefetch_trials_total",
       kCounter,
       "Comparisons of two such demands that ended.",
       {{"speculative", [](S s) { return double(s.prefetch.trials); }}}},
  };
  return families;
}

void CollectNumbers(std::span<const EngineSnapshot> engines, std::vector<MetricFamily>* families) {
  for (const NumberFamily& numbers : NumberFamilies()) {
    Family family(std::string("expert_cache_") + numbers.name, numbers.type, numbers.help);
    for (const EngineSnapshot& engine : engines) {
      for (const Number& number : numbers.numbers) {
        Labels labels;
        if (number.read_class != nullptr) labels.push_back({"class", number.read_class});
        family.Add(LabelsOf(engine), number.read(engine.stats.experts), std::move(labels));
      }
    }
    families->push_back(family.Take());
  }
}

void CollectReads(std::span<const EngineSnapshot> engines, std::vector<MetricFamily>* families) {
  Family reads("expert_cache_reads_total", kCounter, "Expert reads begun, by who asked for them.");
  Family bytes("expert_cache_read_bytes_total", kCounter,
               "Expert bytes read, by who asked for them.");
  Family in_flight("expert_cache_reads_in_flight", kGauge, "Expert reads at the disk.");
  Family queued("expert_cache_reads_queued", kGauge, "Expert reads not begun.");
  for (const EngineSnapshot& engine : engines) {
    for (const ExpertReads& one : ReadsByClass(engine.stats.experts)) {
      const Labels labels = {{"class", std::string(one.name)}};
      reads.Add(LabelsOf(engine), double(one.reads), labels);
      bytes.Add(LabelsOf(engine), double(one.bytes), labels);
      in_flight.Add(LabelsOf(engine), one.in_flight, labels);
      queued.Add(LabelsOf(engine), one.queued, labels);
    }
  }
  for (Family* family : {&reads, &bytes, &in_flight, &queued}) families->push_back(family->Take());
}

void CollectLayers(std::span<const EngineSnapshot> engines, std::vector<MetricFamily>* families) {
  Family family("expert_cache_layer_resident_ratio", kGauge,
                "Share of a MoE layer's expert bytes in slots.");
  for (const EngineSnapshot& engine : engines) {
    for (size_t i = 0; i < engine.experts->layers.size(); ++i) {
      const ExpertReport::Layer& layer = engine.experts->layers[i];
      const double share = layer.bytes > 0 ? double(layer.resident_bytes) / double(layer.bytes) : 0;
      family.Add(LabelsOf(engine), share, {{"layer", std::to_string(i)}});
    }
  }
  families->push_back(family.Take());
}

// At each tenth of what all experts take.
void CollectMissRatios(std::span<const EngineSnapshot> engines,
                       std::vector<MetricFamily>* families) {
  Family family("expert_cache_miss_ratio", kGauge,
                "Share of decode's lookups that would miss, estimated for slots for so large a "
                "share of all experts.");
  for (const EngineSnapshot& engine : engines) {
    if (engine.experts->miss_ratios.empty()) continue;
    for (int tenths = 1; tenths <= 10; ++tenths) {
      const uint64_t bytes = engine.stats.experts.model_bytes / 10 * tenths;
      family.Add(LabelsOf(engine), MissRatioAt(engine.experts->miss_ratios, bytes),
                 {{"resident", fmt::format("{:.1f}", tenths * 0.1)}});
    }
  }
  families->push_back(family.Take());
}

void CollectReadTimes(std::span<const EngineSnapshot> engines,
                      std::vector<MetricFamily>* families) {
  Family family("expert_cache_demand_read_seconds", MetricType::Histogram,
                "From when a step first waited for an expert until it could be used.");
  for (const EngineSnapshot& engine : engines) {
    const LatencyHistogram& times = engine.experts->demand_reads;
    ClientMetric::Histogram& histogram =
        family.Add(LabelsOf(engine), {{"class", "demand"}}).histogram;
    for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
      histogram.sample_count += times.counts[i];
      if (i % kBucketsInOne == 0 || i == LatencyHistogram::kBuckets - 1) {
        histogram.bucket.push_back({histogram.sample_count, LatencyHistogram::Bound(i)});
      }
    }
    histogram.sample_sum = times.seconds;
  }
  families->push_back(family.Take());
}

}  // namespace

std::vector<MetricFamily> CollectExperts(std::span<const EngineSnapshot> engines) {
  std::vector<EngineSnapshot> with_experts;
  for (const EngineSnapshot& engine : engines) {
    if (engine.experts.has_value()) with_experts.push_back(engine);
  }
  std::vector<MetricFamily> families;
  CollectNumbers(with_experts, &families);
  CollectReads(with_experts, &families);
  CollectLayers(with_experts, &families);
  CollectMissRatios(with_experts, &families);
  CollectReadTimes(with_experts, &families);
  return families;
}

}  // namespace hostler
