// What the CPU backend's operations share: kernels, threads and scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "engine/compute/cpu/kernels.h"
#include "engine/compute/cpu/thread_pool.h"

namespace hostler {

// 64-byte aligned floats that only grow; growing loses the contents.
class Scratch {
 public:
  float* Reserve(size_t floats) {
    if (floats > capacity_) {
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment)));
      capacity_ = floats;
    }
    return data_.get();
  }
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
  size_t capacity_ = 0;
};

class CpuContext {
 public:
  CpuContext(const KernelTable* kernels, int threads)
      : kernels_(*kernels), pool_(threads), scratch_(static_cast<size_t>(pool_.threads())) {}

  const KernelTable& kernels() const { return kernels_; }
  int threads() const { return pool_.threads(); }

  // Gives every thread at least this much scratch. Not inside a loop.
  void ReserveScratch(size_t floats_each) {
    for (Scratch& scratch : scratch_) scratch.Reserve(floats_each);
  }
  float* scratch(int thread) const { return scratch_[static_cast<size_t>(thread)].data(); }

  // Bytes for an operation's converted inputs, as with Scratch::Reserve.
  std::byte* ReserveInputs(size_t bytes) {
    return reinterpret_cast<std::byte*>(inputs_.Reserve(bytes / sizeof(float)));
  }
  const std::byte* inputs() const { return reinterpret_cast<const std::byte*>(inputs_.data()); }

  // ThreadPool::ParallelFor, by this thread alone if `work` (multiply-adds, or
  // values touched) is too little to be worth waking others.
  void For(int64_t chunks, int64_t work, LoopBody body) {
    if (!RunAlone(chunks, work, body)) pool_.ParallelFor(chunks, body);
  }
  // The same for ThreadPool::ParallelRuns.
  void ForRuns(int64_t chunks, int64_t work, LoopBody body) {
    if (!RunAlone(chunks, work, body)) pool_.ParallelRuns(chunks, body);
  }

 private:
  // Runs a loop that is too little; returns whether it was.
  static bool RunAlone(int64_t chunks, int64_t work, const LoopBody& body) {
    if (work >= kWorkWorthWaking) return false;
    for (int64_t i = 0; i < chunks; ++i) body(i, 0);
    return true;
  }

  // Takes a core some 20 microseconds; waking another takes about as long.
  static constexpr int64_t kWorkWorthWaking = 1 << 18;

  const KernelTable& kernels_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;
  Scratch inputs_;
};

}  // namespace hostler
