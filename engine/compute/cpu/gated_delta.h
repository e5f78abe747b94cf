// The gated delta rule (linear attention with a state) on the CPU.
#pragma once

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::GatedDelta. A layer's part of a slot is the convolution's inputs,
// [kernel - 1, mixed_dim], oldest first, then S, [value head, key_dim, value_dim].
class CpuGatedDelta {
 public:
  explicit CpuGatedDelta(CpuContext& context) : context_(context) {}
  void Run(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset, Mat mixed,
           Mat beta, Mat decay, const StateView& state, Mat out);

 private:
  // convolved_ = silu(conv(mixed)), with q and k normalised.
  void Convolve(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset, Mat mixed,
                const StateView& state);
  void NormalizeHeads(const DeltaNetSpec& spec, int64_t rows);

  CpuContext& context_;
  Scratch convolved_;  // [rows, mixed_dim]
};

}  // namespace hostler
