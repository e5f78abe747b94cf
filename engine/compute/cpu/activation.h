// The activation's product of one row, by kind.
#pragma once

#include "engine/compute/backend.h"
#include "engine/compute/cpu/kernels.h"

namespace hostler {

// See Backend::Activate.
inline void CpuActivate(const KernelTable& kernels, const ActivationSpec& activation,
                        const float* gate, const float* up, int64_t n, float* out) {
  switch (activation.kind) {
    case Activation::kSilu:
      return kernels.silu_mul(gate, up, n, out);
    case Activation::kGeluTanh:
      return kernels.gelu_mul(gate, up, n, out);
    case Activation::kSwigluOai:
      return kernels.swiglu_oai(gate, up, n, activation.limit, out);
  }
}

}  // namespace hostler
