#include "engine/model/gguf_model.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/model/gguf_names.h"

namespace hostler {
namespace {

class RenamedSource : public WeightSource {
 public:
  RenamedSource(std::unique_ptr<GgufSource> gguf, std::string_view architecture)
      : gguf_(std::move(gguf)) {
    for (const TensorInfo& tensor : gguf_->tensors()) {
      TensorInfo& renamed = tensors_.emplace_back(tensor);
      const auto found = FindDecoderName(architecture, tensor.name);
      if (!found.has_value()) continue;
      renamed.name = found->name;
      int64_t rows = 0;
      if (found->flattened && tensor.shape.size() == 3 &&
          !__builtin_mul_overflow(tensor.shape[0], tensor.shape[1], &rows)) {
        renamed.shape = {rows, tensor.shape[2]};
      }
    }
    for (const TensorInfo& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
  }

  std::string_view format() const override { return gguf_->format(); }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  std::span<const std::string> files() const override { return gguf_->files(); }
  const TensorInfo* Find(std::string_view name) const override {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }
  // Where the bytes lie did not change with the name.
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return gguf_->Data(tensor);
  }
  void Release(std::span<const std::byte> data) const override { gguf_->Release(data); }
  absl::Status Health() const override { return gguf_->Health(); }

 private:
  std::unique_ptr<GgufSource> gguf_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, const TensorInfo*> by_name_;
};

}  // namespace

std::unique_ptr<WeightSource> RenameGgufTensors(std::unique_ptr<GgufSource> gguf) {
  const auto name = gguf->metadata().GetString("general.architecture", "");
  const std::string architecture(name.ok() ? *name : "");
  return std::make_unique<RenamedSource>(std::move(gguf), architecture);
}

void AdaptToGguf(DecoderConfig* config) {
  config->dense_name = config->moe_name = "mlp.";
  config->moe.gate_name = "gate";
  config->moe.shared_name = "shared_expert.";
  if (!config->moe.correction_bias.empty()) {
    config->moe.correction_bias = "gate.e_score_correction_bias";
  }
  const bool biases = config->expert_names.form == ExpertForm::kInterleaved;
  config->expert_names = {biases ? ExpertForm::kStackedBiased : ExpertForm::kStacked,
                          "experts.gate", "experts.up", "experts.down"};
}

}  // namespace hostler
