// The part of an ExpertCache that lets the host compute what the tier lacks.
#include <algorithm>
#include <utility>

#include "cache/expert_cache_impl.h"

namespace hostler {

void ExpertCache::Impl::OnHostWork(int layer, int rows, double seconds) {
  std::lock_guard lock(mutex_);
  ++counters_.host_experts;
  counters_.host_rows += rows;
  hybrid_.OnHost(rows, parts_.store->slot_bytes(layer), seconds);
}

// Of what the acquisition misses, the host's share.
void ExpertCache::Impl::ChooseForHost(const ExpertRequest& request) {
  parts_.host->OnRequest(layer_, waiting_);
  if (parts_.options.hybrid == Hybrid::kOff) return;
  std::fill(rows_.begin(), rows_.end(), request.offsets.empty() ? 1 : 0);
  for (const int expert : request.chosen) ++rows_[expert];
  missing_.clear();
  const uint64_t bytes = parts_.store->slot_bytes(layer_);
  for (const int expert : waiting_) missing_.push_back({expert, rows_[expert], bytes});
  hybrid_.Plan(missing_);
  for (const HybridPlanner::Missing& expert : missing_) {
    if (!expert.on_host) continue;
    std::erase(waiting_, expert.expert);
    SendToHost(expert.expert);
  }
}

// Whether that would do nearly as well as a copy.
bool ExpertCache::Impl::HostWillDo(int expert) const {
  return parts_.host != nullptr &&
         hybrid_.HostWillDo(rows_[expert], parts_.store->slot_bytes(layer_));
}

// The host computes it, where it is or will be; it is copied in when nobody waits, if
// it is worth more than another.
void ExpertCache::Impl::SendToHost(int expert) {
  const ExpertKey key = {layer_, expert};
  if (const std::byte* data = parts_.host->Hold(key)) {
    ready_.push_back({.expert = expert, .data = data, .on_host = true, .status = {}});
  } else {
    host_waiting_.Push(expert);
  }
  if (promotions_.size() < kMostPromotions) promotions_.push_back(key);
}

// The same for what the host has computed.
int ExpertCache::Impl::TakePromotion() {
  while (!promotions_.empty()) {
    const ExpertKey key = promotions_.back();
    promotions_.pop_back();
    if (parts_.table.Find(key) != kNone) continue;
    const int slot = TakeSlot(key, /*if_worth=*/true);
    if (slot < 0) continue;
    slots_[slot].preload = true;
    ++preloading_;
    ++counters_.promotions;
    return slot;
  }
  return kNone;
}

void ExpertCache::Impl::StartHostRead(int expert) {
  const int id = TakeRead();
  reads_[id] = {.slot = ExpertSource::kHost,
                .key = {layer_, expert},
                .wanted = true,
                .wanted_at = Clock::now()};
  Read(id);
}

void ExpertCache::Impl::FinishHostRead(ExpertSource::Done* done) {
  const ReadUse& read = reads_[done->id];
  if (!done->status.ok()) {
    ++counters_.read_errors;
    if (read.wanted) {
      ready_.push_back({.expert = read.key.expert, .status = std::move(done->status)});
    }
  } else if (read.wanted) {
    counters_.demand_latency.Add(NanosecondsSince(read.wanted_at));
    ready_.push_back({.expert = read.key.expert, .data = done->host, .on_host = true});
  } else {
    parts_.host->Release(read.key);
  }
}

}  // namespace hostler
