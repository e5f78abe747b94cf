// Training a router from outcomes.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "router/quality/router_model.h"
#include "router/quality/routing_data.h"

namespace hostler {

struct TrainOptions {
  int hash_bits = 16;  // 2^hash_bits hashed features
  int folds = 5;       // within training, for weights that hold on new prompts
  int epochs = 12;     // of the topic classifier
  // Of the heads' ridge: each direction takes the one that foretells it best (not empty).
  std::vector<float> penalties = {4, 8, 16, 32};
  float length_penalty = 3;  // the same for answers' lengths
  float topic_prior = 10;    // rows that a topic's mean starts with
  int neighbours = 80;       // looked at, where rows have embeddings
  float neighbour_weight = 0.2f;
  int max_directions = 32;  // of a group; fewer than models: their principal ones
  std::function<void(std::string_view)> progress = {};  // may be empty
};

// The same data and options give the same bytes. A row without a subject is of
// the topic "". Errors: InvalidArgument (fewer than 20 rows in a set,
// embeddings of different lengths, too many topics or models).
absl::StatusOr<RouterModel> TrainRouter(std::span<const RoutingSet> sets,
                                        const TrainOptions& options);

}  // namespace hostler
