// QualityPredictor: how well each model is likely to answer a prompt.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/quality/router_model.h"
#include "router/route_prompt.h"

namespace hostler {

struct QualityEstimate {
  double quality = 0;        // calibrated probability that the answer is good
  double output_tokens = 0;  // expected length of the answer; 0: not known
};

// Immutable, thread-safe.
class QualityPredictor {
 public:
  // Errors: NotFound; InvalidArgument naming the file and what is wrong in it.
  static absl::StatusOr<std::shared_ptr<const QualityPredictor>> Load(const std::string& path);
  // REQUIRES: CheckRouterModel(model) is ok.
  explicit QualityPredictor(RouterModel model);

  const std::vector<std::string>& models() const { return models_; }
  int embedding_size() const { return model_.embedding_size; }  // 0: it wants none

  // out[m] for models()[m]. An embedding of another length than
  // embedding_size() is not used. REQUIRES: out.size() == models().size().
  void Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const;

 private:
  const RouterModel model_;
  std::vector<std::string> models_;
  // Of each group, of each of its models: the index in models_.
  std::vector<std::vector<int>> places_;
};

}  // namespace hostler
