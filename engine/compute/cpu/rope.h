// Rotary position embedding on the CPU.
#pragma once

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::Rope.
void CpuRope(CpuContext& context, const RopeSpec& rope, const StepBatch& batch, int head_dim,
             Mat x);

}  // namespace hostler
