#define HOSTLER_INPUT_BYTES 1
#include "engine/compute/cpu/integer_vnni.inc"

namespace hostler {

const UnitKernels kVnniIntegerKernels = kUnitKernels;

}  // namespace hostler
