#include "cache/host_level.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "cache/disk_source.h"

namespace hostler {

HostLevel::HostLevel(const ExpertStore* store, SlotTable table,
                     std::unique_ptr<EvictionPolicy> policy, Tier* above, int depth)
    : store_(*store),
      above_(*above),
      table_(std::move(table)),
      policy_(std::move(policy)),
      uses_(table_.num_slots()),
      evictable_([this](ExpertKey key) {
        const int slot = table_.Find(key);
        return slot != SlotTable::kNone && uses_[slot].resident && uses_[slot].holders == 0;
      }),
      asks_(depth) {
  waiting_.reserve(depth);
  ready_.reserve(depth);
  stats_.capacity_bytes = table_.budget();
}

HostLevel::~HostLevel() { Stop(); }

absl::Status HostLevel::Serve(std::unique_ptr<ExpertSource> disk, int workers) {
  disk_ = std::move(disk);
  slot_of_read_.resize(disk_->depth());
  for (int id = disk_->depth(); id-- > 0;) free_reads_.push_back(id);
  try {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(fmt::format("no I/O thread: {}", error.what()));
  }
  return absl::OkStatus();
}

void HostLevel::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    ready_or_stopped_.notify_all();
  }
  if (disk_ != nullptr) disk_->Stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void HostLevel::OnRequest(int layer, std::span<const int> missing) {
  std::lock_guard lock(mutex_);
  policy_->OnRequest({.layer = layer, .experts = missing, .offsets = {}, .chosen = {}});
}

const std::byte* HostLevel::Hold(ExpertKey key) {
  std::lock_guard lock(mutex_);
  const int slot = table_.Find(key);
  if (slot == SlotTable::kNone || !uses_[slot].resident) return nullptr;
  ++stats_.hits;
  ++uses_[slot].holders;
  return table_.memory(slot).data();
}

void HostLevel::Release(ExpertKey key) {
  std::lock_guard lock(mutex_);
  --uses_[table_.Find(key)].holders;
  Read();
}

HostLevelStats HostLevel::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

bool HostLevel::Start(int id, ExpertKey key, int slot, bool demanded) {
  std::lock_guard lock(mutex_);
  Ask& ask = asks_[id];
  ask.key = key;
  ask.slot = slot;
  ask.demanded = demanded;
  ask.status = absl::OkStatus();
  if (const int here = table_.Find(key); here != SlotTable::kNone) {
    ++stats_.hits;
    Join(id, here);
    return false;
  }
  ++stats_.misses;
  waiting_.push_back(id);
  Read();
  return true;
}

int HostLevel::TakeFirst(std::vector<int>* ids) const {
  auto first =
      std::find_if(ids->begin(), ids->end(), [this](int id) { return asks_[id].demanded.load(); });
  if (first == ids->end()) first = ids->begin();
  const int id = *first;
  ids->erase(first);
  return id;
}

// Ask `id` waits for what is, or is coming, in `slot`.
void HostLevel::Join(int id, int slot) {
  Ask& ask = asks_[id];
  ++uses_[slot].holders;
  ask.here = slot;
  ask.coming = !uses_[slot].resident;
  if (ask.coming) return;
  ready_.push_back(id);
  ready_or_stopped_.notify_one();
}

void HostLevel::Fail(int id, absl::Status status, int retries) {
  Ask& ask = asks_[id];
  ask.here = SlotTable::kNone;
  ask.coming = false;
  ask.status = std::move(status);
  ask.retries = retries;
  ready_.push_back(id);
  ready_or_stopped_.notify_one();
}

// Begins reads for asks that wait, as far as slots go.
void HostLevel::Read() {
  while (!free_reads_.empty() && !waiting_.empty()) {
    const int id = TakeFirst(&waiting_);
    const ExpertKey key = asks_[id].key;
    if (const int here = table_.Find(key); here != SlotTable::kNone) {
      Join(id, here);
      continue;
    }
    const int slot = TakeSlot(key);
    if (slot == SlotTable::kNone) {
      waiting_.insert(waiting_.begin(), id);
      return;
    }
    if (table_.memory(slot).empty()) {
      Forget(slot);
      Fail(id, NameExpert(absl::ResourceExhaustedError("no memory on the host"), key), 0);
      continue;
    }
    Join(id, slot);
    const int read = free_reads_.back();
    free_reads_.pop_back();
    slot_of_read_[read] = slot;
    disk_->Start(read, key, slot, asks_[id].demanded);
  }
}

int HostLevel::TakeSlot(ExpertKey key) {
  for (;;) {
    if (const std::optional<int> slot = table_.Take(key)) {
      uses_[*slot] = {};
      policy_->OnInsert(key);
      return *slot;
    }
    ExpertKey victim;
    if (!policy_->PickVictim(evictable_, &victim)) return SlotTable::kNone;
    ++stats_.evictions;
    stats_.resident_bytes -= table_.Stride(victim.layer);
    Forget(table_.Find(victim));
  }
}

void HostLevel::Forget(int slot) {
  policy_->OnErase(table_.key(slot));
  uses_[slot] = {};
  table_.Free(slot);
}

void HostLevel::Work() {
  Done came;
  while (disk_->Wait(&came)) {
    std::lock_guard lock(mutex_);
    const int slot = slot_of_read_[came.id];
    free_reads_.push_back(came.id);
    if (came.status.ok()) {
      uses_[slot].resident = true;
      stats_.resident_bytes += table_.Stride(table_.key(slot).layer);
    }
    for (int id = 0; id < depth(); ++id) {
      Ask& ask = asks_[id];
      if (!ask.coming || ask.here != slot) continue;
      if (came.status.ok()) {
        ask.coming = false;
        ready_.push_back(id);
      } else {
        Fail(id, came.status, came.retries);
      }
    }
    if (!came.status.ok()) Forget(slot);
    ready_or_stopped_.notify_all();
    Read();
  }
}

bool HostLevel::Wait(Done* done) {
  std::unique_lock lock(mutex_);
  ready_or_stopped_.wait(lock, [this] { return stopped_ || !ready_.empty(); });
  if (stopped_) return false;
  const int id = TakeFirst(&ready_);
  const Ask& ask = asks_[id];
  *done = {.id = id, .status = ask.status, .retries = ask.retries};
  if (!ask.status.ok()) return true;
  const std::span<std::byte> contents =
      table_.memory(ask.here).first(store_.slot_bytes(ask.key.layer));
  if (ask.slot == kHost) {
    done->host = contents.data();
    return true;
  }
  lock.unlock();
  CopyToTier(above_, ask.slot, contents, ask.demanded, done);
  done->status = NameExpert(done->status, ask.key);
  lock.lock();
  --uses_[ask.here].holders;
  Read();
  return true;
}

}  // namespace hostler
