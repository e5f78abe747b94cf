// RouterModel: what training finds, and the file that holds it.
//
// A prompt's hashed features x give z = x W: logits of topics, and heads. A
// group is a source of outcomes (a set of models that answered the same
// prompts); p is the softmax of its own topics' logits, times its sharpness.
// In its basis of directions the quality is  t_c = p · theta[c] + head[c] z_c,
// and the estimates are mean + basis t. A further head for each model
// foretells the length of its answer: length1 exp(length0 + z). Where the prompt's
// embedding is known, what its nearest neighbours' outcomes say is mixed in. Where
// groups share a model, each counts by how likely the prompt is of its topics.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/quality/neighbours.h"

namespace hostler {

struct RouterGroup {
  std::string name;
  std::vector<std::string> models = {};  // M
  std::vector<int32_t> topics = {};      // its own, indexes < RouterModel::topics
  float sharpness = 1;                   // multiplies their logits
  int32_t first_head = 0;                // of its C directions, then M lengths, among the heads
  std::vector<float> mean = {};          // [M] quality
  std::vector<float> basis = {};         // [M, C]
  std::vector<float> theta = {};         // [its topics, C]
  std::vector<float> head = {};          // [C]
  std::vector<float> length = {};        // [M, 2]: mean log, and a factor; or empty: not known
  NeighbourIndex neighbours = {};        // without rows: none

  int directions() const { return static_cast<int>(head.size()); }
  int heads() const { return directions() + static_cast<int>(length.size()) / 2; }
};

struct RouterModel {
  int32_t hash_bits = 0;       // 2^hash_bits features
  int32_t embedding_size = 0;  // that neighbours are found by; 0: none
  int32_t topics = 0;
  int32_t heads = 0;
  std::string encoder = "";     // fingerprint of what the embeddings are of; "": not known, or none
  int32_t encoder_tokens = 0;   // that it cut texts at
  std::vector<float> idf = {};  // [features]
  std::vector<float> row_scale = {};  // of weights: [features]
  std::vector<int8_t> weights = {};   // [features, topics + heads]
  std::vector<float> bias = {};       // [topics]
  std::vector<RouterGroup> groups = {};

  int64_t features() const { return int64_t{1} << hash_bits; }
  int outputs() const { return topics + heads; }
};

inline constexpr int kMaxHashBits = 20;
inline constexpr int kMaxEmbedding = 4096;
inline constexpr int kMaxOutputs = 1024;  // topics and heads
inline constexpr int kMaxGroupModels = 256;

// Whether the sizes agree, indexes are in bounds and numbers finite.
absl::Status CheckRouterModel(const RouterModel& model);

// Little-endian; magic, version and length in front, a checksum at the end.
std::string SerializeRouterModel(const RouterModel& model);
// Errors: InvalidArgument, saying what is wrong.
absl::StatusOr<RouterModel> ParseRouterModel(std::string_view bytes);

}  // namespace hostler
