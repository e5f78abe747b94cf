#define HOSTLER_INPUT_BYTES 2
#include "engine/compute/cpu/integer_vnni.inc"

namespace hostler {

const UnitKernels kVnniWideIntegerKernels = kUnitKernels;

}  // namespace hostler
