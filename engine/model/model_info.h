// What a model is, as read from its configuration and tensor headers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hostler {

struct ModelInfo {
  std::string path;
  std::string architecture;         // the registry's name, "qwen3_moe"
  std::string format;               // "safetensors"
  std::string packed, packed_from;  // of a packed store: its type ("q8"), its source's format
  std::string weight_type;          // of most weights as stored, "bf16"
  int vocab = 0;
  int layers = 0;
  int dim = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int max_positions = 0;
  int moe_layers = 0;  // 0: a dense model
  int experts = 0;     // per MoE layer
  int experts_per_token = 0;
  uint64_t kv_values_per_token = 0;  // in all layers
  uint64_t parameters = 0;
  uint64_t active_parameters = 0;  // used by one token; the embedding counted once
  uint64_t expert_bytes = 0;       // of one expert as stored
  uint64_t dense_bytes = 0;        // everything else as stored
  uint64_t file_bytes = 0;
  std::vector<int32_t> eos_ids;
  // Empty when the model can be served; else what stands in the way.
  std::vector<std::string> unsupported;

  uint64_t KvBytesPerToken(int bytes_per_value) const {
    return kv_values_per_token * bytes_per_value;
  }
};

}  // namespace hostler
