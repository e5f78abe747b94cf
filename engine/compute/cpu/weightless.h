// Backend::AddWeightless on the CPU.
#pragma once

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

void CpuAddWeightless(CpuContext& context, const WeightlessExperts& experts,
                      const ExpertSelection& selection, Mat mix, Mat x, Mat y);

}  // namespace hostler
