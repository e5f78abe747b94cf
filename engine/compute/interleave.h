// Interleaved rows: how quantised weights lie for products in integers.
//
// 16 consecutive rows of a matrix form a panel, which takes the bytes that the rows
// took: first the quants of all blocks of 32 columns, then their scales. Of a block
// every row's four columns 4 k, ..., 4 k + 3 lie together, one row's after another's,
// so that one vector holds the same columns of all 16 rows and sums need not be
// collected across lanes. Rows after the last whole panel stay as they are stored.
//
// The quants of a block, in words of four bytes [k][row], byte i being column 4 k + i:
//   q8_0          k < 8, the bytes
//   others        k < 4, low nibbles; columns 16 + 4 k + i are the high nibbles
//   q5_k          then the fifth bits, 4 for each row, [k < 8][row]
//   q6_k          then the upper bits: words [k < 2][row], bits 2 f of a byte belong to
//                 column 4 (4 k + f) + i
// Scales: of each block, or block of 256, its rows' f16 scales, minima and bytes, each
// field for all rows together, in the order in which a stored block has them, but
// q6_k's scale first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

inline constexpr int kInterleavedRows = 16;

// Whether there is an interleaved form of the type.
bool CanInterleave(DType type);

// Bytes of a block's quants in a panel, for columns [32 b, 32 b + 32).
// REQUIRES: CanInterleave(type)
size_t InterleavedQuantBytes(DType type);

// Turns a [rows, cols] matrix as stored into one with interleaved rows, and back. The
// two have the same size and must not overlap. REQUIRES: CanInterleave(type), whole blocks
void InterleaveRows(DType type, int64_t rows, int64_t cols, const std::byte* in, std::byte* out);
void DeinterleaveRows(DType type, int64_t rows, int64_t cols, const std::byte* in, std::byte* out);

// One row of such a matrix as it was stored, RowBytes(type, cols).
void DeinterleaveRow(DType type, int64_t rows, int64_t cols, const std::byte* in, int64_t row,
                     std::byte* out);

}  // namespace hostler
