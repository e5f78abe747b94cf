#include "server/http/admin_cache.h"

#include <limits>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "server/expert_reads.h"
#include "server/openai/common_fields.h"
#include "server/openai/fields.h"

namespace hostler {
namespace {

Json MemoryJson(const MemoryPlan& memory, int max_context) {
  Json json = {{"budget_bytes", memory.budget},
               {"weights_bytes", memory.weights},
               {"work_space_bytes", memory.work_space},
               {"kv_bytes", memory.kv},
               {"experts_bytes", memory.experts},
               {"all_experts_bytes", memory.all_experts},
               {"max_context", max_context}};
  if (memory.device.empty()) return json;
  json["device"] = memory.device;
  json["host"] = {{"budget_bytes", memory.host_budget},
                  {"work_space_bytes", memory.host_work_space},
                  {"experts_bytes", memory.host_experts}};
  return json;
}

Json ReadsJson(const ExpertCacheStats& stats) {
  Json classes = Json::object();
  for (const ExpertReads& one : ReadsByClass(stats)) {
    classes[std::string(one.name)] = {{"reads", one.reads},
                                      {"bytes", one.bytes},
                                      {"in_flight", one.in_flight},
                                      {"queued", one.queued}};
  }
  Json& speculative = classes["speculative"];
  speculative["hits"] = stats.speculative_hits;
  speculative["late"] = stats.speculative_late;
  speculative["wasted"] = stats.speculative_wasted;
  speculative["useful_bytes"] = stats.speculative_useful_bytes;
  speculative["wasted_bytes"] = stats.speculative_wasted_bytes;
  return classes;
}

Json ReadTimesJson(const LatencyHistogram& times) {
  Json buckets = Json::array();
  for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
    if (times.counts[i] == 0) continue;
    // The last has no bound, which JSON has no number for.
    const bool last = i == LatencyHistogram::kBuckets - 1;
    buckets.push_back(
        {{"le", last ? Json() : Json(LatencyHistogram::Bound(i))}, {"count", times.counts[i]}});
  }
  return {{"count", times.count()},      {"sum", times.seconds},
          {"p50", times.Quantile(0.5)},  {"p90", times.Quantile(0.9)},
          {"p99", times.Quantile(0.99)}, {"buckets", std::move(buckets)}};
}

Json PrefetchJson(const PrefetchGovernor::Report& report) {
  const bool off = report.least_chance > 1;
  return {{"least_chance", off ? Json("off") : Json(report.least_chance)},
          {"trials", report.trials},
          {"last_difference", report.last_difference}};
}

Json MissRatiosJson(const std::vector<MissRatioPoint>& points) {
  Json json = Json::array();
  for (const MissRatioPoint& point : points) {
    json.push_back({{"bytes", point.bytes}, {"miss_ratio", point.miss_ratio}});
  }
  return json;
}

Json ExpertsJson(const ExpertReport& report, const ExpertCacheStats& stats) {
  const uint64_t lookups = stats.hits + stats.misses;
  Json layers = Json::array();
  for (const ExpertReport::Layer& layer : report.layers) {
    layers.push_back({{"resident_bytes", layer.resident_bytes}, {"bytes", layer.bytes}});
  }
  return {{"policy", report.policy},
          {"reader", report.reader},
          {"direct_io", report.direct_io},
          {"locked", stats.locked},
          {"capacity_bytes", stats.capacity_bytes},
          {"resident_bytes", stats.resident_bytes},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"hit_rate", lookups > 0 ? Json(double(stats.hits) / double(lookups)) : Json()},
          {"evictions", stats.evictions},
          {"pinned_slots", stats.pinned_slots},
          {"stall_seconds", stats.stall_seconds},
          {"read_errors", stats.read_errors},
          {"read_retries", stats.read_retries},
          {"reads", ReadsJson(stats)},
          {"demand_read_seconds", ReadTimesJson(report.demand_reads)},
          {"prefetch", PrefetchJson(stats.prefetch)},
          {"miss_ratios", MissRatiosJson(report.miss_ratios)},
          {"more_memory", DescribeMoreMemory(report.miss_ratios, stats.capacity_bytes)},
          {"layers", std::move(layers)}};
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The "expert_memory" of a body.
absl::StatusOr<uint64_t> ReadBytes(const Json* value) {
  constexpr char kField[] = "expert_memory";
  if (value == nullptr) return FieldError(kField, "is required");
  if (value->is_string()) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(value->get_ref<const std::string&>());
    if (!bytes.ok()) return FieldError(kField, std::string(bytes.status().message()));
    return *bytes;
  }
  if (!value->is_number()) {
    return FieldError(kField, fmt::format("must be bytes or a size such as \"1.5GiB\", not {}",
                                          JsonTypeName(*value)));
  }
  const absl::StatusOr<int64_t> bytes = ToInt(*value, 0, std::numeric_limits<int64_t>::max());
  if (!bytes.ok()) return FieldError(kField, std::string(bytes.status().message()));
  return static_cast<uint64_t>(*bytes);
}

// The only one there is, for a body that names none.
absl::StatusOr<std::string> OnlyModel(const Router& router) {
  if (router.targets().size() == 1) return router.targets().front()->name();
  std::vector<std::string> names;
  for (const auto& target : router.targets()) names.push_back(target->name());
  return FieldError("model", fmt::format("is required, one of {}", fmt::join(names, ", ")));
}

struct MoveRequest {
  std::string model;
  uint64_t expert_bytes = 0;
};

absl::StatusOr<MoveRequest> ReadMoveRequest(const Router& router, std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  for (const auto& [key, value] : json.items()) {
    if (key == "model" || key == "expert_memory") continue;
    return FieldError(key, "is unknown; there are model and expert_memory");
  }
  MoveRequest request;
  FieldReader fields(json, "");
  fields.Read("model", &request.model);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  if (request.model.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(request.model, OnlyModel(router));
  }
  HOSTLER_ASSIGN_OR_RETURN(request.expert_bytes, ReadBytes(fields.Find("expert_memory")));
  return request;
}

}  // namespace

Json CacheJson(const EngineSnapshot& engine) {
  const EngineStats& stats = engine.stats;
  Json experts;
  if (engine.experts.has_value()) experts = ExpertsJson(*engine.experts, stats.experts);
  return {{"model", engine.model},
          {"running", stats.running},
          {"waiting", stats.waiting},
          {"paused", stats.paused},
          {"prompt_tokens", stats.prompt_tokens},
          {"generated_tokens", stats.generated_tokens},
          {"steps", stats.steps},
          {"step_seconds", stats.step_seconds},
          {"preemptions", stats.preemptions},
          {"kv_blocks",
           {{"used", stats.kv_blocks_used},
            {"cached", stats.kv_blocks_cached},
            {"total", stats.kv_blocks_total}}},
          {"prefix_cache",
           {{"queried_tokens", stats.prefix_queried_tokens},
            {"found_tokens", stats.prefix_found_tokens},
            {"evictions", stats.prefix_evictions}}},
          {"decode",
           {{"width", stats.schedule.width},
            {"slices", stats.schedule.slices},
            {"probes", stats.schedule.probes},
            {"longest_wait_seconds", stats.schedule.longest_wait_seconds}}},
          {"memory", MemoryJson(engine.memory, engine.max_context)},
          {"experts", std::move(experts)}};
}

absl::StatusOr<std::string> ReportCaches(const Service& service, const std::string& model) {
  std::vector<EngineSnapshot> engines;
  if (model.empty()) {
    engines = TakeSnapshots(service.router());
  } else {
    HOSTLER_ASSIGN_OR_RETURN(const Engine* engine, service.EngineFor(model));
    engines = {TakeSnapshot(model, *engine)};
  }
  Json models = Json::array();
  for (const EngineSnapshot& engine : engines) models.push_back(CacheJson(engine));
  return Dump({{"models", std::move(models)}});
}

absl::StatusOr<std::string> MoveExpertMemory(const Service& service, std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const MoveRequest request, ReadMoveRequest(service.router(), body));
  HOSTLER_ASSIGN_OR_RETURN(Engine * engine, service.EngineFor(request.model));
  const absl::StatusOr<MemoryPlan> memory = engine->SetExpertMemory(request.expert_bytes);
  if (memory.ok()) {
    return Dump({{"model", request.model}, {"memory", MemoryJson(*memory, engine->max_context())}});
  }
  const absl::Status& status = memory.status();
  if (absl::IsInvalidArgument(status))
    return FieldError("expert_memory", std::string(status.message()));
  if (absl::IsFailedPrecondition(status)) {
    return FieldError(
        "model", fmt::format("\"{}\" cannot: {}", request.model, std::string(status.message())));
  }
  return status;
}

}  // namespace hostler
