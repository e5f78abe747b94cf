// QualitySource: how good each model's answer to a prompt will be.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/quality/embedding_kind.h"
#include "router/route_prompt.h"

namespace hostler {

struct QualityEstimate {
  double quality = 0;        // calibrated probability that the answer is good
  double output_tokens = 0;  // expected length of the answer; 0: not known
};

// Immutable, thread-safe.
class QualitySource {
 public:
  virtual ~QualitySource() = default;
  virtual const std::vector<std::string>& models() const = 0;
  // What RoutePrompt::embedding is to be. A prompt without it is predicted by its words.
  virtual EmbeddingKind embeddings() const { return {}; }
  // out[m] for models()[m]. REQUIRES: out.size() == models().size().
  virtual void Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const = 0;
};

using LoadQuality =
    std::function<absl::StatusOr<std::shared_ptr<const QualitySource>>(const std::string& path)>;

}  // namespace hostler
