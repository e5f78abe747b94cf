// Hands out a model's work matrices from one buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "engine/base/status.h"
#include "engine/compute/backend.h"

namespace hostler {

// Used twice with the same calls: first without memory, to learn how much is
// needed, then over the memory. Parts of a step that never live at the same
// time share their place through Mark and Rewind.
class WorkArena {
 public:
  explicit WorkArena(float* base = nullptr) : base_(base) {}

  // 64-byte aligned.
  Mat Matrix(int64_t rows, int64_t cols) {
    const Mat matrix{base_ == nullptr ? nullptr : base_ + used_, rows, cols};
    used_ += (rows * cols + 15) / 16 * 16;
    most_ = std::max(most_, used_);
    return matrix;
  }

  int64_t Mark() const { return used_; }
  void Rewind(int64_t mark) { used_ = mark; }
  uint64_t bytes() const { return sizeof(float) * static_cast<uint64_t>(most_); }

 private:
  float* base_;
  int64_t used_ = 0;  // floats
  int64_t most_ = 0;
};

}  // namespace hostler
