#include "cache/expert_cache.h"

#include <fmt/format.h>

#include <utility>

#include "cache/disk_source.h"
#include "cache/expert_cache_impl.h"
#include "cache/host_level.h"
#include "cache/slot_table.h"
#include "cache/store_sizes.h"

namespace hostler {
namespace {

// Copies to a tier off the host that nobody waits for: guesses and what is preloaded.
constexpr int kMostIdleCopies = 4;
// Experts that such a tier may be asking for beside those being read.
constexpr int kCopiesUnderWay = 8;

absl::StatusOr<std::unique_ptr<HostLevel>> NewHostLevel(
    const ExpertCache::Options& options, const ExpertStore* store, const StoreSizes& sizes,
    std::unique_ptr<Reader> reader, std::unique_ptr<EvictionPolicy> policy, Tier* above) {
  if (options.host_bytes < SlotStride(sizes.slot_bytes)) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes in DRAM hold no expert: one takes {} bytes", options.host_bytes,
                    SlotStride(sizes.slot_bytes)));
  }
  absl::StatusOr<SlotTable> table =
      SlotTable::Create(*store, options.host_bytes, options.new_host_tier, options.one_slot_size);
  if (!table.ok()) return std::move(table).status();
  if (policy == nullptr) policy = NewLruPolicy();
  const int depth = reader->depth() + kCopiesUnderWay;
  auto level =
      std::make_unique<HostLevel>(store, *std::move(table), std::move(policy), above, depth);
  auto disk =
      DiskSource::Create(store, sizes, std::move(reader), &level->table().tier(), NewDramTier);
  if (!disk.ok()) return std::move(disk).status();
  absl::Status status = level->Serve(*std::move(disk), options.workers);
  if (!status.ok()) return status;
  return level;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Create(
    const Options& options, const ExpertStore* store, std::unique_ptr<Reader> reader,
    std::unique_ptr<EvictionPolicy> policy, std::unique_ptr<ExpertPredictor> predictor,
    std::unique_ptr<EvictionPolicy> host_policy) {
  if (options.workers < 1) {
    return absl::InvalidArgumentError(
        fmt::format("an expert cache with {} workers, must be at least 1", options.workers));
  }
  absl::StatusOr<StoreSizes> sizes = MeasureStore(*store);
  if (!sizes.ok()) return std::move(sizes).status();
  if (options.capacity_bytes < SlotStride(sizes->slot_bytes)) {
    return absl::InvalidArgumentError(
        fmt::format("an expert cache of {} bytes holds no expert: one takes {} bytes",
                    options.capacity_bytes, SlotStride(sizes->slot_bytes)));
  }
  absl::StatusOr<SlotTable> table =
      SlotTable::Create(*store, options.capacity_bytes, options.new_tier, options.one_slot_size);
  if (!table.ok()) return std::move(table).status();
  const Reader* const opened = reader.get();
  int workers = options.workers;
  HostLevel* host = nullptr;
  std::unique_ptr<ExpertSource> source;
  // Each copy that is not demanded may hold up a worker.
  if (!table->tier().on_host()) workers += kMostIdleCopies;
  if (table->tier().on_host() || options.host_bytes == 0) {
    auto disk =
        DiskSource::Create(store, *sizes, std::move(reader), &table->tier(), options.new_host_tier);
    if (!disk.ok()) return std::move(disk).status();
    source = *std::move(disk);
  } else {
    auto level = NewHostLevel(options, store, *sizes, std::move(reader), std::move(host_policy),
                              &table->tier());
    if (!level.ok()) return std::move(level).status();
    host = level->get();
    source = *std::move(level);
  }
  auto impl = std::make_unique<Impl>(
      Impl::Parts{options, store, *std::move(table), std::move(policy), std::move(predictor),
                  std::move(source), host, opened, sizes->max_experts_per_layer});
  if (absl::Status status = impl->StartThreads(workers); !status.ok()) return status;
  return std::unique_ptr<ExpertCache>(new ExpertCache(std::move(impl)));
}

ExpertCache::ExpertCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ExpertCache::~ExpertCache() = default;

ExpertCache::Acquisition ExpertCache::Acquire(const ExpertRequest& request) {
  impl_->Begin(request);
  return Acquisition(impl_.get());
}

void ExpertCache::Prefetch(std::span<const ExpertGuess> guesses) { impl_->Prefetch(guesses); }
bool ExpertCache::WantsGuesses() const { return impl_->WantsGuesses(); }
void ExpertCache::OnHostWork(int layer, int rows, double seconds) {
  impl_->OnHostWork(layer, rows, seconds);
}
ExpertCacheStep ExpertCache::EndStep(const StepCost& cost) { return impl_->EndStep(cost); }
void ExpertCache::Preload(std::span<const ExpertKey> pinned, std::span<const ExpertKey> popular) {
  impl_->Preload(pinned, popular);
}
void ExpertCache::SetCapacity(uint64_t bytes) { impl_->SetCapacity(bytes); }
ExpertCacheStats ExpertCache::stats() const { return impl_->stats(); }
LatencyHistogram ExpertCache::DemandReads() const { return impl_->DemandReads(); }
std::vector<uint64_t> ExpertCache::ResidentBytes() const { return impl_->ResidentBytes(); }
Popularity ExpertCache::ExportPopularity() const { return impl_->ExportPopularity(); }
std::vector<MissRatioPoint> ExpertCache::MissRatioCurve() const { return impl_->MissRatioCurve(); }
std::string_view ExpertCache::reader_name() const { return impl_->parts().reader->name(); }
bool ExpertCache::reads_directly() const { return impl_->parts().reader->direct(); }
std::string_view ExpertCache::policy_name() const { return impl_->parts().policy->name(); }

ExpertCache::Acquisition::Acquisition(Acquisition&& other) noexcept
    : impl_(std::exchange(other.impl_, nullptr)) {}

ExpertCache::Acquisition::~Acquisition() {
  if (impl_ != nullptr) impl_->End();
}

std::span<const AcquiredExpert> ExpertCache::Acquisition::Next() { return impl_->Next(); }

}  // namespace hostler
