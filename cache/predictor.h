// Which experts a layer will ask for, guessed before its gate has run. Like a
// policy, a predictor is a pure object fed with events: the owner reads ahead.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/policy.h"

namespace hostler {

struct ExpertGuess {
  ExpertKey key;
  float chance = 0;  // 0 to 1
};

// Not thread-safe. Allocates nothing after the first pass of all layers.
class ExpertPredictor {
 public:
  virtual ~ExpertPredictor() = default;
  virtual std::string_view name() const = 0;

  // What a layer's gates chose.
  virtual void OnRequest(const ExpertRequest& request) = 0;

  // Appends guesses for the layer `ahead` layers (1 or more) after the last
  // request's, likeliest first. A layer past the last is one of the next token.
  virtual void Predict(int ahead, std::vector<ExpertGuess>* guesses) = 0;
};

// Counts which experts of the next layers went with each expert of a layer.
std::unique_ptr<ExpertPredictor> NewTransitionPredictor(PolicyShape shape);
// Says that a layer chooses what it chose for the token before.
std::unique_ptr<ExpertPredictor> NewPreviousTokenPredictor(PolicyShape shape);

// "transitions" or "previous". Errors: InvalidArgument that names what there is.
absl::StatusOr<std::unique_ptr<ExpertPredictor>> NewExpertPredictor(std::string_view name,
                                                                    PolicyShape shape);

}  // namespace hostler
