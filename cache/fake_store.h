// An ExpertStore in memory for the cache's tests, and a Reader of it whose
// reads the test can hold up and let fail.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cache/expert_store.h"
#include "cache/reader.h"

namespace hostler {

// Byte `offset` of file `file`, the same everywhere.
inline std::byte StoredByte(int file, uint64_t offset) {
  uint64_t x = (static_cast<uint64_t>(file) << 40 ^ offset) * 0x9e3779b97f4a7c15u;
  return static_cast<std::byte>(x >> 56);
}

// Layer i is file i; its experts lie one after another, each in two extents of
// which the second lies first.
class FakeStore : public ExpertStore {
 public:
  struct Layer {
    int num_experts;
    size_t slot_bytes;
    bool decode = false;  // slots hold each stored byte twice, then
  };

  explicit FakeStore(std::vector<Layer> layers) : layers_(std::move(layers)) {
    for (int layer = 0; layer < layers_.size(); ++layer) {
      const uint64_t bytes = layers_[layer].slot_bytes / (layers_[layer].decode ? 2 : 1);
      const uint64_t tail = bytes / 3;
      extents_.emplace_back();
      for (int expert = 0; expert < layers_[layer].num_experts; ++expert) {
        const uint64_t begin = expert * bytes;
        extents_.back().push_back({{layer, begin + tail, bytes - tail}, {layer, begin, tail}});
      }
    }
  }

  int num_layers() const override { return static_cast<int>(layers_.size()); }
  int num_experts(int layer) const override { return layers_[layer].num_experts; }
  size_t slot_bytes(int layer) const override { return layers_[layer].slot_bytes; }
  std::span<const Extent> extents(ExpertKey key) const override {
    return extents_[key.layer][key.expert];
  }
  bool needs_decode(int layer) const override { return layers_[layer].decode; }

  absl::Status Decode(ExpertKey key, std::span<const std::byte> stored,
                      std::span<std::byte> slot) const override {
    if (key == undecodable) return absl::DataLossError("stored bytes cannot be right");
    for (size_t i = 0; i < stored.size(); ++i) slot[2 * i] = slot[2 * i + 1] = stored[i];
    return absl::OkStatus();
  }

  absl::Status Check(ExpertKey key, std::span<const std::byte> stored) const override {
    if (TotalBytes(extents(key)) != stored.size()) return absl::InternalError("not all it read");
    const std::byte* next = stored.data();
    bool whole = !(key == damaged);
    for (const Extent& extent : extents(key)) {
      for (uint64_t i = 0; i < extent.bytes; ++i) {
        whole = whole && *next++ == StoredByte(extent.file, extent.offset + i);
      }
    }
    return whole ? absl::OkStatus() : absl::DataLossError("the checksum is another one");
  }

  // Whether `data` is what the slot of `key` must hold.
  bool Matches(ExpertKey key, const std::byte* data) const {
    const int copies = layers_[key.layer].decode ? 2 : 1;
    for (const Extent& extent : extents(key)) {
      for (uint64_t i = 0; i < extent.bytes; ++i) {
        for (int copy = 0; copy < copies; ++copy) {
          if (*data++ != StoredByte(extent.file, extent.offset + i)) return false;
        }
      }
    }
    return true;
  }

  ExpertKey undecodable{-1, -1};
  ExpertKey damaged{-1, -1};

 private:
  const std::vector<Layer> layers_;
  std::vector<std::vector<std::vector<Extent>>> extents_;
};

// The controls outlive the reader, which the cache owns.
class ReadControl {
 public:
  explicit ReadControl(const FakeStore* store) : store_(store) {
    // For tests that count allocations.
    begun_.reserve(1000);
    under_way_.reserve(100);
  }

  void Hold(ExpertKey key) {
    std::lock_guard lock(mutex_);
    held_.insert(Pair(key));
  }
  void LetGo(ExpertKey key) {
    std::lock_guard lock(mutex_);
    held_.erase(Pair(key));
    changed_.notify_all();
  }
  void Fail(ExpertKey key, bool fail = true) {
    std::lock_guard lock(mutex_);
    fail ? (void)failing_.insert(Pair(key)) : (void)failing_.erase(Pair(key));
  }
  enum class Fault { kError, kFlippedByte };
  // The next `times` reads of `key` come so.
  void Inject(ExpertKey key, Fault fault, int times) {
    std::lock_guard lock(mutex_);
    faults_[Pair(key)] = {fault, times};
  }
  // Reads begun so far, of all experts; in their order.
  int reads() const {
    std::lock_guard lock(mutex_);
    return static_cast<int>(begun_.size());
  }
  std::vector<ExpertKey> begun() const {
    std::lock_guard lock(mutex_);
    return begun_;
  }
  void WaitForReads(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return begun_.size() >= count; });
  }

  std::unique_ptr<Reader> NewReader(int depth = 8) {
    return std::make_unique<ControlledReader>(this, depth);
  }

 private:
  struct Read {
    int id;
    ExpertKey key;
    std::span<const Extent> extents;
    std::span<std::byte> out;
  };

  static std::pair<int, int> Pair(ExpertKey key) { return {key.layer, key.expert}; }

  class ControlledReader : public Reader {
   public:
    ControlledReader(ReadControl* control, int depth) : control_(control), depth_(depth) {}
    std::string_view name() const override { return "controlled"; }
    int depth() const override { return depth_; }
    bool direct() const override { return false; }
    void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) override {
      control_->Start({id, control_->KeyOf(extents.front()), extents, out});
    }
    bool Wait(Done* done) override { return control_->Wait(done); }
    void Stop() override { control_->Stop(); }

   private:
    ReadControl* const control_;
    const int depth_;
  };

  ExpertKey KeyOf(const Extent& extent) const {
    const uint64_t bytes =
        store_->slot_bytes(extent.file) / (store_->needs_decode(extent.file) ? 2 : 1);
    return {extent.file, static_cast<int>(extent.offset / bytes)};
  }

  void Start(const Read& read) {
    std::lock_guard lock(mutex_);
    begun_.push_back(read.key);
    under_way_.push_back(read);
    changed_.notify_all();
  }

  bool Wait(Reader::Done* done) {
    std::unique_lock lock(mutex_);
    auto next = under_way_.end();
    changed_.wait(lock, [&] {
      next = std::find_if(under_way_.begin(), under_way_.end(),
                          [&](const Read& read) { return !held_.contains(Pair(read.key)); });
      return stopped_ || next != under_way_.end();
    });
    if (stopped_) return false;
    const Read read = *next;
    under_way_.erase(next);
    *done = {read.id, {}};
    const auto fault = faults_.find(Pair(read.key));
    const bool faulty = fault != faults_.end() && fault->second.times-- > 0;
    if (failing_.contains(Pair(read.key)) || (faulty && fault->second.fault == Fault::kError)) {
      done->status = absl::UnavailableError("the disk failed");
      return true;
    }
    std::byte* to = read.out.data();
    for (const Extent& extent : read.extents) {
      for (uint64_t i = 0; i < extent.bytes; ++i)
        *to++ = StoredByte(extent.file, extent.offset + i);
    }
    if (faulty) read.out.front() ^= std::byte{1};
    return true;
  }

  void Stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  const FakeStore* const store_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ExpertKey> begun_;
  std::vector<Read> under_way_;
  std::set<std::pair<int, int>> held_;
  std::set<std::pair<int, int>> failing_;
  struct Injected {
    Fault fault;
    int times;
  };
  std::map<std::pair<int, int>, Injected> faults_;
  bool stopped_ = false;
};

}  // namespace hostler
