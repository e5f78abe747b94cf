#define HOSTLER_SUM_INTEGERS SumHostIntegersAvx2
#include "engine/compute/cuda/host_integer_rows.inc"
