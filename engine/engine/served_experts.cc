#include "engine/engine/served_experts.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

#include "cache/pins.h"
#include "cache/predictor.h"
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/text/json_fields.h"
#include "fmt/format.h"

namespace hostler {

absl::StatusOr<std::unique_ptr<ServedExperts>> ServedExperts::Create(const Model& model,
                                                                     const WeightSource& weights,
                                                                     const EngineOptions& options) {
  if (model.experts() == nullptr) {
    if (options.expert_pins.empty() && options.expert_trace.empty()) return nullptr;
    return absl::InvalidArgumentError(fmt::format(
        "{} has no experts: it cannot have expert_pins or an expert_trace", model.info().path));
  }
  std::unique_ptr<ServedExperts> experts(new ServedExperts(model, weights, options));
  HOSTLER_RETURN_IF_ERROR(experts->Measure());
  HOSTLER_RETURN_IF_ERROR(experts->ReadPins());
  return experts;
}

absl::Status ServedExperts::Measure() {
  HOSTLER_ASSIGN_OR_RETURN(sizes_, MeasureStore(store_));
  reads_ = ReaderOptionsFor(store_);
  reads_.method = options_.expert_io;
  reads_.direct = options_.expert_direct_io;
  shape_ = {store_.num_layers(), sizes_.max_experts_per_layer};
  return absl::OkStatus();
}

absl::Status ServedExperts::ReadPins() {
  if (options_.expert_pins.empty()) return absl::OkStatus();
  const auto explain = [this](const absl::Status& status) {
    return absl::Status(status.code(), fmt::format("expert_pins: {}: {}", options_.expert_pins,
                                                   std::string(status.message())));
  };
  const absl::StatusOr<std::string> text = ReadTextFile(options_.expert_pins);
  if (!text.ok()) return explain(text.status());
  std::vector<int> experts;
  for (int layer = 0; layer < shape_.layers; ++layer) experts.push_back(store_.num_experts(layer));
  absl::StatusOr<std::vector<ExpertKey>> pins = ParsePins(*text, experts);
  if (!pins.ok()) return explain(pins.status());
  pins_ = *std::move(pins);
  for (const ExpertKey pin : pins_) pinned_bytes_ += SlotStride(store_.slot_bytes(pin.layer));
  return absl::OkStatus();
}

void ServedExperts::AddNeeds(MemoryNeeds* needs) const {
  needs->slot = SlotStride(sizes_.slot_bytes);
  needs->pinned = pinned_bytes_;
  needs->all_experts = sizes_.all_slots_bytes;
  needs->layer_experts = sizes_.max_experts_per_layer;
  // A read that is not aligned goes through a buffer, and so does decoding.
  needs->host_work_space += reads_.depth * (reads_.max_bytes + sizes_.stored_bytes);
  if (!options_.expert_trace.empty()) {
    needs->host_work_space += GateRecorder::RingBytes(model_, options_.step_tokens);
  }
}

absl::Status ServedExperts::Start(const MemoryPlan& plan, Backend* backend) {
  const uint64_t bytes = plan.experts;
  if (!pins_.empty() && bytes < least_bytes()) {
    return absl::ResourceExhaustedError(
        fmt::format("{} for experts; the {} pinned ones and a slot more take {}",
                    FormatBytes(bytes), pins_.size(), FormatBytes(least_bytes())));
  }
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, OpenReader());
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<EvictionPolicy> policy, MakePolicy(bytes));
  if (!options_.expert_trace.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(
        recorder_, GateRecorder::Create({.path = options_.expert_trace,
                                         .max_bytes = options_.expert_trace_bytes,
                                         .step_rows = options_.step_tokens,
                                         .warn = [this](const std::string& text) { Warn(text); }},
                                        model_));
  }
  if (const std::string path = PopularityFile(); !path.empty()) {
    warm_start_ = std::make_unique<WarmStart>(
        WarmStart::Options{.path = path,
                           .fingerprint = FingerprintModel(weights_),
                           .shape = shape_,
                           .warn = [this](const std::string& text) { Warn(text); }});
  }
  const Popularity popularity = warm_start_ != nullptr ? warm_start_->last() : Popularity();
  policy->ImportPopularity(popularity);
  std::unique_ptr<ExpertPredictor> predictor;
  if (options_.expert_prefetch == Prefetch::kTransitions) {
    predictor = NewTransitionPredictor(shape_);
  }
  ExpertCache::Options cache;
  cache.capacity_bytes = bytes;
  cache.least_bytes = least_bytes();
  cache.new_tier = [backend](std::span<const SlotClass> classes) {
    return backend->NewTier(classes);
  };
  cache.one_slot_size = !backend->SharesHostMemory();
  cache.host_bytes = plan.host_experts;
  cache.new_host_tier = [backend](std::span<const SlotClass> classes) {
    return backend->NewHostTier(classes);
  };
  std::unique_ptr<EvictionPolicy> host_policy;
  if (plan.host_experts > 0) {
    HOSTLER_ASSIGN_OR_RETURN(host_policy, NewPolicy(plan.host_experts, /*pinned=*/0));
  }
  cache.hybrid = options_.hybrid;
  if (options_.expert_prefetch == Prefetch::kOff) cache.speculative_reads = 0;
  cache.govern_prefetch = options_.expert_prefetch == Prefetch::kAuto;
  HOSTLER_ASSIGN_OR_RETURN(cache_,
                           ExpertCache::Create(cache, &store_, std::move(reader), std::move(policy),
                                               std::move(predictor), std::move(host_policy)));
  std::vector<ExpertKey> preloaded = MostPopular(popularity);
  if (options_.expert_preload && bytes >= sizes_.all_slots_bytes) {
    // What is there already is not read again.
    for (int layer = 0; layer < store_.num_layers(); ++layer) {
      for (int expert = 0; expert < store_.num_experts(layer); ++expert) {
        preloaded.push_back({layer, expert});
      }
    }
  }
  cache_->Preload(pins_, preloaded);
  if (warm_start_ != nullptr) {
    warm_start_->KeepSaving([this] { return cache_->ExportPopularity(); });
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Reader>> ServedExperts::OpenReader() const {
  auto reader = NewReader(weights_.files(), reads_);
  if (reader.ok() && options_.wrap_reader) return options_.wrap_reader(*std::move(reader));
  if (reader.status().code() != absl::StatusCode::kUnimplemented) return reader;
  return absl::UnimplementedError(
      fmt::format("the experts cannot be read as expert_io or expert_direct_io ask: {}",
                  std::string(reader.status().message())));
}

absl::StatusOr<std::unique_ptr<EvictionPolicy>> ServedExperts::MakePolicy(uint64_t bytes) const {
  HOSTLER_ASSIGN_OR_RETURN(auto policy, NewPolicy(bytes, pinned_bytes_));
  return pins_.empty() ? std::move(policy) : NewPinningPolicy(std::move(policy), pins_);
}

absl::StatusOr<std::unique_ptr<EvictionPolicy>> ServedExperts::NewPolicy(uint64_t bytes,
                                                                         uint64_t pinned) const {
  // Pinned experts are no part of what a policy decides.
  const int64_t cycle = int64_t{shape_.layers} * model_.info().experts_per_token;
  const ExpertCounts counts{cycle, sizes_.experts - int64_t(pinned > 0 ? pins_.size() : 0)};
  const int64_t slots = bytes >= sizes_.all_slots_bytes
                            ? counts.all
                            : int64_t((bytes - pinned) / SlotStride(sizes_.slot_bytes));
  const std::string& asked = options_.expert_policy;
  std::string_view name = asked;
  if (asked == "default" || asked == "lru") name = PolicyForBudget(asked, slots, counts);
  if (asked == "lru" && name != asked) {
    Warn(
        fmt::format("expert_policy is {} in place of lru, which hits nothing with {} slots: one "
                    "token asks for {} experts",
                    name, slots, cycle));
  }
  return NewEvictionPolicy(name, shape_);
}

std::string ServedExperts::PopularityFile() const {
  const std::string& asked = options_.expert_popularity;
  if (asked != "auto") return asked == "off" ? "" : asked;
  if (model_.info().packed.empty()) return "";
  const std::filesystem::path store = weights_.files()[0];
  return (store.parent_path() / "popularity.bin").string();
}

void ServedExperts::SavePopularity() {
  if (warm_start_ != nullptr) warm_start_->Save();
}

void ServedExperts::Warn(const std::string& text) const {
  if (options_.on_warning) options_.on_warning(text);
}

}  // namespace hostler
