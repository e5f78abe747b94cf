// How kernels find and read keys and values in blocks.
#pragma once

#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/kernels.h"

namespace hostler {

// One layer's part of KV memory.
struct DeviceKv {
  uint8_t* data = nullptr;
  int64_t block_bytes = 0;
  int64_t k_layer = 0, v_layer = 0;  // offsets of the first head's run in a block
  int64_t k_head_bytes = 0, v_head_bytes = 0;
  int64_t k_row_bytes = 0, v_row_bytes = 0;
  int block_tokens = 0;
  int kv_heads = 0, k_dim = 0, v_dim = 0;
  bool v_in_k = false;

  static DeviceKv Of(const KvView& kv, int layer) {
    const KvLayout& l = kv.layout;
    return {reinterpret_cast<uint8_t*>(kv.data),
            static_cast<int64_t>(l.block_bytes()),
            static_cast<int64_t>(l.k_offset(layer, 0)),
            static_cast<int64_t>(l.v_offset(layer, 0)),
            static_cast<int64_t>(l.k_bytes()),
            static_cast<int64_t>(l.v_in_k ? l.k_bytes() : l.v_bytes()),
            static_cast<int64_t>(l.k_row_bytes()),
            static_cast<int64_t>(l.v_in_k ? l.k_row_bytes() : l.v_row_bytes()),
            l.block_tokens,
            l.kv_heads,
            l.k_dim,
            l.v_dim,
            l.v_in_k};
  }

  __device__ uint8_t* k_row(const int32_t* blocks, int position, int head) const {
    return data + blocks[position / block_tokens] * block_bytes + k_layer + head * k_head_bytes +
           position % block_tokens * k_row_bytes;
  }
  __device__ uint8_t* v_row(const int32_t* blocks, int position, int head) const {
    return data + blocks[position / block_tokens] * block_bytes + v_layer + head * v_head_bytes +
           position % block_tokens * v_row_bytes;
  }
};

// All blocks that the batch names.
inline DeviceRange RangeOf(const KvView& kv, const DeviceBatch& batch) {
  return {kv.data, kv.layout.block_bytes() * static_cast<size_t>(batch.last_block + 1)};
}

// Dimension d of a stored key or value. KV types only.
template <DType type>
__device__ inline float KvValue(const uint8_t* row, int d) {
  if constexpr (type == DType::kF32) {
    return reinterpret_cast<const float*>(row)[d];
  } else if constexpr (type == DType::kF16) {
    return HalfToFloat(reinterpret_cast<const uint16_t*>(row)[d]);
  } else if constexpr (type == DType::kBF16) {
    return Bf16BitsToFloat(reinterpret_cast<const uint16_t*>(row)[d]);
  } else {
    const uint8_t* block = row + d / 32 * 34;
    return HalfToFloat(LoadU16(block)) * static_cast<float>(static_cast<int8_t>(block[2 + d % 32]));
  }
}

}  // namespace hostler
