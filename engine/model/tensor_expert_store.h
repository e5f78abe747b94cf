// The experts of a model whose file holds gate, up and down as separate
// tensors (the Hugging Face layout).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "engine/compute/backend.h"
#include "engine/weights/source.h"

namespace hostler {

// One expert's tensors: gate [ffn, dim], up [ffn, dim], down [dim, ffn].
struct ExpertTensors {
  const TensorInfo* gate = nullptr;
  const TensorInfo* up = nullptr;
  const TensorInfo* down = nullptr;
};

class TensorExpertStore : public ExpertStore {
 public:
  // `layers[l][e]`; all experts of one type, as TensorBinder::Check found.
  // `quantize`: slots hold q8_0. Errors: InvalidArgument when types differ
  // within the model.
  static absl::StatusOr<std::unique_ptr<TensorExpertStore>> Create(
      const std::vector<std::vector<ExpertTensors>>& layers, int64_t dim, int64_t ffn,
      bool quantize);

  const ExpertLayout& layout() const { return layout_; }
  uint64_t stored_expert_bytes() const { return stored_.bytes; }

  int num_layers() const override { return static_cast<int>(extents_.size()); }
  int num_experts(int layer) const override { return static_cast<int>(extents_[layer].size()); }
  size_t slot_bytes(int) const override { return layout_.bytes; }
  std::span<const Extent> extents(ExpertKey key) const override {
    return extents_[key.layer][key.expert];
  }
  bool needs_decode(int) const override { return layout_.gate_type != stored_.gate_type; }
  absl::Status Decode(ExpertKey key, std::span<const std::byte> stored,
                      std::span<std::byte> slot) const override;

 private:
  TensorExpertStore() = default;

  ExpertLayout stored_;  // as the extents, concatenated, lie
  ExpertLayout layout_;  // as a slot holds it
  std::vector<std::vector<std::array<Extent, 3>>> extents_;
};

}  // namespace hostler
