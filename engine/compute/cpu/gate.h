// Choosing experts from gate logits, on the host.
#pragma once

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::SelectExperts.
void CpuSelectExperts(CpuContext& context, const GateSpec& spec, Mat logits,
                      ExpertSelection* selection);

}  // namespace hostler
