#include "engine/model/tensor_expert_store.h"

#include "engine/compute/quantize.h"
#include "engine/model/tensor_binder.h"
#include "fmt/format.h"

namespace hostler {

absl::StatusOr<std::unique_ptr<TensorExpertStore>> TensorExpertStore::Create(
    const std::vector<std::vector<ExpertTensors>>& layers, int64_t dim, int64_t ffn,
    bool quantize) {
  std::unique_ptr<TensorExpertStore> store(new TensorExpertStore);
  const DType type = layers.at(0).at(0).gate->dtype;
  const bool quantized = quantize && CanQuantize(dim) && CanQuantize(ffn);
  store->stored_ = ExpertLayout::Packed(dim, ffn, type);
  store->layout_ = quantized ? ExpertLayout::Packed(dim, ffn, DType::kQ8_0) : store->stored_;

  for (const std::vector<ExpertTensors>& layer : layers) {
    auto& extents = store->extents_.emplace_back();
    for (const ExpertTensors& expert : layer) {
      std::array<Extent, 3>& out = extents.emplace_back();
      size_t part = 0;
      for (const TensorInfo* tensor : {expert.gate, expert.up, expert.down}) {
        if (tensor->dtype != type) {
          return absl::UnimplementedError(
              fmt::format("tensor \"{}\" has type {}, other experts have {}", tensor->name,
                          GetDTypeInfo(tensor->dtype).name, GetDTypeInfo(type).name));
        }
        out[part++] = {tensor->file, tensor->offset, tensor->bytes};
      }
    }
  }
  return store;
}

absl::Status TensorExpertStore::Decode(ExpertKey, std::span<const std::byte> stored,
                                       std::span<std::byte> slot) const {
  const auto convert = [](const Weight& from, std::byte* to, DType type) {
    ConvertRows(from.dtype, type, from.data, from.rows * from.cols, to);
  };
  convert(stored_.gate(stored.data()), slot.data() + layout_.gate_offset, layout_.gate_type);
  convert(stored_.up(stored.data()), slot.data() + layout_.up_offset, layout_.up_type);
  convert(stored_.down(stored.data()), slot.data() + layout_.down_offset, layout_.down_type);
  return absl::OkStatus();
}

}  // namespace hostler
