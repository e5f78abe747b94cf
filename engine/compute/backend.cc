#include "engine/compute/backend.h"

namespace hostler {

ExpertLayout ExpertLayout::Packed(int64_t dim, int64_t ffn, DType type) {
  const size_t gate_bytes = RowBytes(type, dim) * static_cast<size_t>(ffn);
  const size_t down_bytes = RowBytes(type, ffn) * static_cast<size_t>(dim);
  return {.dim = dim,
          .ffn = ffn,
          .gate_type = type,
          .up_type = type,
          .down_type = type,
          .gate_offset = 0,
          .up_offset = gate_bytes,
          .down_offset = 2 * gate_bytes,
          .bytes = 2 * gate_bytes + down_bytes};
}

}  // namespace hostler
