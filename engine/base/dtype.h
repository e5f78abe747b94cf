// The element types of stored tensors and weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hostler {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,  // blocks of 32: an f16 scale, then 32 int8 (GGUF's Q8_0, 34 bytes)
  // Types that occur in files without being weights of ours (yet).
  kF64,
  kF8E4M3,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kBool,
};

struct DTypeInfo {
  std::string_view name;
  int block_elements;  // 1 for plain types
  int block_bytes;
};

const DTypeInfo& GetDTypeInfo(DType type);

// Bytes of `elements` values in one row. REQUIRES: whole blocks.
inline size_t RowBytes(DType type, int64_t elements) {
  const DTypeInfo& info = GetDTypeInfo(type);
  return static_cast<size_t>(elements / info.block_elements) * info.block_bytes;
}

}  // namespace hostler
