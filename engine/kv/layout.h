// How one KV block lies in memory. A block is self-contained (all layers, both
// K and V), so that it can be exported as one run of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

// A block: [layer][K then V][kv_head][block_tokens][head_dim] of `dtype`.
struct KvLayout {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 16;
  DType dtype = DType::kF16;  // kF32, kF16 or kBF16

  size_t head_bytes() const { return RowBytes(dtype, int64_t{block_tokens} * head_dim); }
  size_t block_bytes() const { return head_bytes() * kv_heads * 2 * layers; }
  size_t token_bytes() const { return block_bytes() / block_tokens; }
  // Offset of the [block_tokens, head_dim] run of one layer and head.
  size_t k_offset(int layer, int head) const {
    return (size_t(layer) * 2 * kv_heads + head) * head_bytes();
  }
  size_t v_offset(int layer, int head) const {
    return (size_t(layer) * 2 * kv_heads + kv_heads + head) * head_bytes();
  }
};

}  // namespace hostler
