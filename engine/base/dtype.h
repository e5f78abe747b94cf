// The element types of stored tensors and weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hostler {

enum class DType : uint8_t {
  // Weights: what engine/compute can multiply by. The types in blocks lie as
  // GGUF has them.
  kF32,
  kF16,
  kBF16,
  kQ8_0,  // blocks of 32: an f16 scale, then 32 int8
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,  // OCP microscaling: an E8M0 scale, then 32 E2M1
  kTQ1_0,
  kTQ2_0,
  kF8E4M3,  // the finite ("fn") variant: no infinities, largest value 448
  // Types that occur in files without being weights.
  kF64,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kBool,
};

inline constexpr int kDTypes = static_cast<int>(DType::kBool) + 1;

struct DTypeInfo {
  std::string_view name;
  int block_elements;  // 1 for plain types
  int block_bytes;
};

const DTypeInfo& GetDTypeInfo(DType type);

// Whether Backend's operations take weights of the type.
constexpr bool IsWeightType(DType type) { return type <= DType::kF8E4M3; }

// Bytes of `elements` values in one row. REQUIRES: whole blocks.
inline size_t RowBytes(DType type, int64_t elements) {
  const DTypeInfo& info = GetDTypeInfo(type);
  return static_cast<size_t>(elements / info.block_elements) * info.block_bytes;
}

}  // namespace hostler
