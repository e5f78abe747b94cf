// Outcomes: which model answered which prompt well.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "router/target.h"

namespace hostler {

inline constexpr int kMaxFolds = 50;  // of cross validation

struct RoutingRow {
  std::string id;
  std::string subject;  // for training alone; may be ""
  std::string prompt;
  double prompt_tokens = 0;
  std::vector<float> quality;    // 0 … 1, of each of the set's models
  std::vector<float> tokens;     // of each answer, or empty: not known
  std::vector<float> embedding;  // of the prompt, or empty
  int fold = -1;                 // for cross validation, if the data say
};

// Rows that name the same models.
struct RoutingSet {
  std::string name;
  std::vector<std::string> models = {};  // sorted
  std::vector<Price> prices = {};        // of models; zeros when not known
  std::vector<RoutingRow> rows = {};

  // USD of row's answer by model m, with an answer of `tokens`.
  double Cost(const RoutingRow& row, size_t m, double tokens) const {
    return (row.prompt_tokens * prices[m].input + tokens * prices[m].output) * 1e-6;
  }
};

struct RoutingDataOptions {
  std::vector<std::string> files;    // JSONL; those of one set are joined in this order
  std::vector<std::string> prompts;  // files that rows without a prompt find theirs in, by id
  std::string prices;                // a models.json, or "": no prices
  std::string labels = "correct";    // the field that holds the qualities
};

// A set is named by its file: "mmlu_train.jsonl" and "mmlu_val.jsonl" are of
// "mmlu". Errors: NotFound; InvalidArgument naming file and line.
absl::StatusOr<std::vector<RoutingSet>> ReadRoutingData(const RoutingDataOptions& options);

}  // namespace hostler
