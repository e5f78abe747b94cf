// QualityPredictor: how well each model is likely to answer a prompt.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/quality/quality_source.h"
#include "router/quality/router_model.h"

namespace hostler {

// Immutable, thread-safe.
class QualityPredictor final : public QualitySource {
 public:
  // "default" is the one that comes with the program. Errors: NotFound; InvalidArgument
  // naming the file and what is wrong in it.
  static absl::StatusOr<std::shared_ptr<const QualityPredictor>> Load(const std::string& path);
  // REQUIRES: CheckRouterModel(model) is ok.
  explicit QualityPredictor(RouterModel model);

  const std::vector<std::string>& models() const override { return models_; }
  EmbeddingKind embeddings() const override {
    return {model_.embedding_size, model_.encoder, model_.encoder_tokens};
  }

  // An embedding of another length than embeddings().size is not used.
  void Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const override;

 private:
  const RouterModel model_;
  std::vector<std::string> models_;
  // Of each group, of each of its models: the index in models_.
  std::vector<std::vector<int>> places_;
};

}  // namespace hostler
