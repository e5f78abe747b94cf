#include "engine/compute/cuda/mat_mul.cuh"

namespace hostler {

void LaunchMatMul(Launcher& launcher, const MatMulTask& task, std::span<const DeviceRange> slots) {
  switch (task.type) {
#define HOSTLER_CASE(name) \
  case DType::name:        \
    return LaunchMatMulOf<DType::name>(launcher, task, slots);
    HOSTLER_WEIGHT_TYPES(HOSTLER_CASE)
#undef HOSTLER_CASE
    default:
      return;
  }
}

}  // namespace hostler
