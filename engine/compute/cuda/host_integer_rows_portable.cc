#define HOSTLER_SUM_INTEGERS SumHostIntegersPortable
#include "engine/compute/cuda/host_integer_rows.inc"
