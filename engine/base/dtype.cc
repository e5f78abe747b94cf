#include "engine/base/dtype.h"

#include <array>

namespace hostler {

const DTypeInfo& GetDTypeInfo(DType type) {
  // In the order of the enumeration.
  static constexpr std::array<DTypeInfo, kDTypes> kTable = {{
      {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},       {"q8_0", 32, 34},
      {"q4_0", 32, 18},   {"q4_1", 32, 20},   {"q5_0", 32, 22},     {"q5_1", 32, 24},
      {"q2_k", 256, 84},  {"q3_k", 256, 110}, {"q4_k", 256, 144},   {"q5_k", 256, 176},
      {"q6_k", 256, 210}, {"iq4_nl", 32, 18}, {"iq4_xs", 256, 136}, {"mxfp4", 32, 17},
      {"tq1_0", 256, 54}, {"tq2_0", 256, 66}, {"f8_e4m3", 1, 1},    {"f64", 1, 8},
      {"i8", 1, 1},       {"u8", 1, 1},       {"i16", 1, 2},        {"i32", 1, 4},
      {"i64", 1, 8},      {"bool", 1, 1},
  }};
  return kTable[static_cast<size_t>(type)];
}

}  // namespace hostler
