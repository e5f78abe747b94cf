// Rotary position embedding on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::Rope. Sines and cosines are kept for the other layers of a step.
class CpuRope {
 public:
  explicit CpuRope(CpuContext& context) : context_(context) {}
  void Run(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x);

 private:
  // Of one spec and batch: of each row the pairs' cosines, then their sines.
  struct Table {
    std::vector<float> inv_freq, long_inv_freq;
    float scale = 0, long_scale = 0;
    std::vector<int32_t> positions;
    std::vector<uint8_t> is_long;  // the row's sequence turns by the long frequencies
    std::vector<float> turns;      // [rows][2][pairs]
  };
  const Table& TableFor(const RopeSpec& rope, const StepBatch& batch);
  void FillTable(Table& table);

  // Models have at most a few specs, which layers take in turn.
  static constexpr size_t kTables = 4;

  CpuContext& context_;
  std::vector<Table> tables_;
  size_t next_ = 0;               // of tables_, to be replaced
  std::vector<uint8_t> is_long_;  // of the batch at hand
};

}  // namespace hostler
