// RouterModel: what training finds, and the file that holds it.
//
// A prompt's hashed features x give logits of topics and of residual
// directions: z = x W. Topics p = softmax. A group is a source of outcomes (a
// set of models that answered the same prompts); in its basis of directions
// the quality is  t_c = mix[c] (p · theta[c]) + residual[c] z_c, and the
// estimates are scale0 + scale1 (basis t). Where groups share a model, each counts by the
// chance that the prompt is of its topics.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

struct RouterGroup {
  std::string name;
  std::vector<std::string> models = {};  // M
  std::vector<int32_t> topics = {};      // its own, indexes < RouterModel::topics
  int32_t first_residual = 0;            // where its C directions start among the residual outputs
  std::vector<float> basis = {};         // [M, C]
  std::vector<float> theta = {};         // [topics, C]
  std::vector<float> residual = {};      // [C]
  std::vector<float> scale = {};         // [M, 2]: the mean, and a slope that calibrates
  std::vector<float> tokens = {};        // [topics, M] expected answer lengths, or empty

  int directions() const { return static_cast<int>(residual.size()); }
};

struct RouterModel {
  int32_t hash_bits = 0;  // features: 2^hash_bits hashed ones, then the embedding
  int32_t embedding_size = 0;
  int32_t topics = 0;
  int32_t residuals = 0;
  std::string encoder = "";     // fingerprint of what the embeddings are of; "": not known, or none
  int32_t encoder_tokens = 0;   // that it cut texts at
  std::vector<float> idf = {};  // [2^hash_bits + embedding_size]
  std::vector<float> row_scale = {};  // of weights: [features]
  std::vector<int8_t> weights = {};   // [features, topics + residuals]
  std::vector<float> bias = {};       // [topics]
  std::vector<RouterGroup> groups = {};

  int64_t features() const { return (int64_t{1} << hash_bits) + embedding_size; }
  int outputs() const { return topics + residuals; }
};

inline constexpr int kMaxHashBits = 20;
inline constexpr int kMaxEmbedding = 4096;
inline constexpr int kMaxOutputs = 1024;  // topics and residuals
inline constexpr int kMaxGroupModels = 256;

// Whether the sizes agree, indexes are in bounds and numbers finite.
absl::Status CheckRouterModel(const RouterModel& model);

// Little-endian; magic, version and length in front, a checksum at the end.
std::string SerializeRouterModel(const RouterModel& model);
// Errors: InvalidArgument, saying what is wrong.
absl::StatusOr<RouterModel> ParseRouterModel(std::string_view bytes);

}  // namespace hostler
