#include "engine/compute/dequantize.h"

#include <array>

#include "engine/compute/to_f32.h"

namespace hostler {

ToF32Function GetToF32(DType type) {
  // In the order of the enumeration.
  static constexpr std::array<ToF32Function, static_cast<int>(DType::kF8E4M3) + 1> kTable = {
      DequantizeF32,   DequantizeF16,   DequantizeBf16,  DequantizeQ8_0,   DequantizeQ4_0,
      DequantizeQ4_1,  DequantizeQ5_0,  DequantizeQ5_1,  DequantizeQ2_K,   DequantizeQ3_K,
      DequantizeQ4_K,  DequantizeQ5_K,  DequantizeQ6_K,  DequantizeIQ4_NL, DequantizeIQ4_XS,
      DequantizeMxfp4, DequantizeTQ1_0, DequantizeTQ2_0, DequantizeF8E4M3,
  };
  return kTable[static_cast<size_t>(type)];
}

}  // namespace hostler
