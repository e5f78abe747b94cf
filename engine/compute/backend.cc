#include "engine/compute/backend.h"

namespace hostler {

ExpertLayout ExpertLayout::Packed(int64_t dim, int64_t ffn, DType gate, DType up, DType down,
                                  bool biases) {
  ExpertLayout layout = {
      .dim = dim, .ffn = ffn, .gate_type = gate, .up_type = up, .down_type = down};
  const auto place = [&layout](DType type, int64_t rows, int64_t cols) {
    const size_t offset = layout.bytes;
    layout.bytes += RowBytes(type, cols) * static_cast<size_t>(rows);
    return offset;
  };
  layout.gate_offset = place(gate, ffn, dim);
  layout.up_offset = place(up, ffn, dim);
  layout.down_offset = place(down, dim, ffn);
  if (biases) {
    layout.gate_bias = place(DType::kF32, 1, ffn);
    layout.up_bias = place(DType::kF32, 1, ffn);
    layout.down_bias = place(DType::kF32, 1, dim);
  }
  return layout;
}

}  // namespace hostler
