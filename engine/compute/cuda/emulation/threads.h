// Runs the threads of one block after another on the calling thread.
#pragma once

#include <functional>

#include "engine/compute/cuda/emulation/emulation.h"

namespace hostler::cuda_emulation {

void RunGrid(const Launch& launch, const std::function<void()>& kernel);

}  // namespace hostler::cuda_emulation
