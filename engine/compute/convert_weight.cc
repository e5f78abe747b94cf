#include "engine/compute/convert_weight.h"

#include <algorithm>
#include <vector>

#include "engine/compute/quantize.h"

namespace hostler {
namespace {

// Rows of a matrix as they are stored, which lie in `scratch` if need be.
const std::byte* StoredRows(const Weight& w, int64_t first, int64_t rows,
                            std::vector<std::byte>* scratch) {
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  if (!w.interleaved) return w.data + static_cast<size_t>(first) * row_bytes;
  scratch->resize(static_cast<size_t>(rows) * row_bytes);
  for (int64_t i = 0; i < rows; ++i) {
    DeinterleaveRow(w.dtype, w.rows, w.cols, w.data, first + i,
                    scratch->data() + static_cast<size_t>(i) * row_bytes);
  }
  return scratch->data();
}

}  // namespace

void ConvertWeight(const Weight& from, int64_t first, const Weight& to, std::byte* out) {
  const size_t row_bytes = RowBytes(to.dtype, to.cols);
  if (from.dtype == to.dtype && !from.interleaved && to.interleaved) {
    const std::byte* in = from.data + static_cast<size_t>(first) * row_bytes;
    return InterleaveRows(to.dtype, to.rows, to.cols, in, out);
  }
  std::vector<std::byte> stored, converted;
  for (int64_t row = 0; row < to.rows; row += kInterleavedRows) {
    const int64_t rows = std::min<int64_t>(kInterleavedRows, to.rows - row);
    const std::byte* in = StoredRows(from, first + row, rows, &stored);
    std::byte* panel = out + static_cast<size_t>(row) * row_bytes;
    if (!to.interleaved) {
      ConvertRows(from.dtype, to.dtype, in, rows * to.cols, panel);
      continue;
    }
    if (from.dtype != to.dtype) {
      converted.resize(static_cast<size_t>(rows) * row_bytes);
      ConvertRows(from.dtype, to.dtype, in, rows * to.cols, converted.data());
      in = converted.data();
    }
    InterleaveRows(to.dtype, rows, to.cols, in, panel);
  }
}

}  // namespace hostler
