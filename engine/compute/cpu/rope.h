// Rotary position embedding on the CPU.
#pragma once

#include <span>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::Rope.
void CpuRope(CpuContext& context, const RopeSpec& rope, std::span<const int32_t> positions,
             int head_dim, Mat x);

}  // namespace hostler
