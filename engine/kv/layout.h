// How one KV block lies in memory. A block is self-contained (all layers, both
// K and V), so that it can be exported as one run of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

// A block: for each layer its K, [kv_head][block_tokens][k_dim], then its V,
// [kv_head][block_tokens][v_dim], all of `dtype`. Rows end in a whole block of a
// type that has blocks; values after the last dimension are zeros.
struct KvLayout {
  int layers = 0;
  int kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  // A token's value is the first v_dim dimensions of its key and is not stored
  // again (multi-head latent attention's compressed KV).
  bool v_in_k = false;
  int block_tokens = 16;
  DType dtype = DType::kF16;  // kF32, kF16, kBF16 or kQ8_0

  // Of one token and head.
  size_t k_row_bytes() const { return HeadBytes(k_dim); }
  size_t v_row_bytes() const { return HeadBytes(v_dim); }
  size_t k_bytes() const { return block_tokens * k_row_bytes(); }
  size_t v_bytes() const { return v_in_k ? 0 : block_tokens * v_row_bytes(); }
  size_t layer_bytes() const { return (k_bytes() + v_bytes()) * kv_heads; }
  size_t block_bytes() const { return layer_bytes() * layers; }
  size_t token_bytes() const { return block_bytes() / block_tokens; }
  // Offset of one layer's and head's [block_tokens, k_dim] run, and of its V.
  size_t k_offset(int layer, int head) const { return layer * layer_bytes() + head * k_bytes(); }
  size_t v_offset(int layer, int head) const {
    return v_in_k ? k_offset(layer, head)
                  : layer * layer_bytes() + kv_heads * k_bytes() + head * v_bytes();
  }

 private:
  size_t HeadBytes(int dim) const {
    const int block = GetDTypeInfo(dtype).block_elements;
    return RowBytes(dtype, int64_t{(dim + block - 1) / block} * block);
  }
};

}  // namespace hostler
