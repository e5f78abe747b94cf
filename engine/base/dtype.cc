#include "engine/base/dtype.h"

#include <array>

namespace hostler {

const DTypeInfo& GetDTypeInfo(DType type) {
  // In the order of the enumeration.
  static constexpr std::array<DTypeInfo, 12> kTable = {{
      {"f32", 1, 4},
      {"f16", 1, 2},
      {"bf16", 1, 2},
      {"q8_0", 32, 34},
      {"f64", 1, 8},
      {"f8_e4m3", 1, 1},
      {"i8", 1, 1},
      {"u8", 1, 1},
      {"i16", 1, 2},
      {"i32", 1, 4},
      {"i64", 1, 8},
      {"bool", 1, 1},
  }};
  return kTable[static_cast<size_t>(type)];
}

}  // namespace hostler
