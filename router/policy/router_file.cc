#include "router/policy/router_file.h"

#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "fmt/format.h"
#if __has_include("router/quality/predictor.h")
#include "router/quality/predictor.h"
#endif

namespace hostler {

#if __has_include("router/quality/predictor.h")
namespace {

class FileSource : public QualitySource {
 public:
  explicit FileSource(std::shared_ptr<const QualityPredictor> predictor)
      : predictor_(std::move(predictor)) {}

  const std::vector<std::string>& models() const override { return predictor_->models(); }
  void Predict(const RoutePrompt& prompt, std::span<QualityGuess> out) const override {
    std::vector<QualityEstimate> estimates(out.size());
    predictor_->Predict(prompt, estimates);
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = {estimates[i].quality, estimates[i].output_tokens};
    }
  }

 private:
  const std::shared_ptr<const QualityPredictor> predictor_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const QualitySource>> LoadRouterFile(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(auto predictor, QualityPredictor::Load(path));
  return std::make_shared<FileSource>(std::move(predictor));
}
#else
absl::StatusOr<std::shared_ptr<const QualitySource>> LoadRouterFile(const std::string& path) {
  return absl::UnimplementedError(
      fmt::format("{}: this build has no predictor that reads router files", path));
}
#endif

}  // namespace hostler
