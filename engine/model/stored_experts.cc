#include "engine/model/stored_experts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/compute/convert_weight.h"
#include "engine/compute/quantize.h"
#include "engine/weights/packed.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// `count` equal parts of a tensor, along its first dimension.
Extent PartOf(const TensorInfo& tensor, int64_t part, int64_t count) {
  const uint64_t bytes = tensor.bytes / count;
  return {tensor.file, tensor.offset + part * bytes, bytes};
}

void ToType(DType type, const float* values, int64_t n, std::byte* out) {
  ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values), n, out);
}

// The layout of slots with matrices of these types.
ExpertLayout SlotLayout(int64_t dim, int64_t ffn, DType gate, DType up, DType down,
                        const TensorBinder& binder) {
  ExpertLayout layout = ExpertLayout::Packed(dim, ffn, gate, up, down);
  layout.interleaved = binder.InterleavesSlots(layout);
  return layout;
}

// Writes a matrix of a slot, whose data is not looked at, to `out`: write(i, row) gives
// row i as stored.
template <typename Write>
void WriteRows(const Weight& matrix, std::byte* out, Write write) {
  const size_t row_bytes = RowBytes(matrix.dtype, matrix.cols);
  std::vector<std::byte> panel(matrix.interleaved ? kInterleavedRows * row_bytes : 0);
  for (int64_t first = 0; first < matrix.rows; first += kInterleavedRows) {
    const int64_t rows = std::min<int64_t>(kInterleavedRows, matrix.rows - first);
    std::byte* const to = out + first * row_bytes;
    std::byte* const stored = matrix.interleaved ? panel.data() : to;
    for (int64_t i = 0; i < rows; ++i) write(first + i, stored + i * row_bytes);
    if (matrix.interleaved) InterleaveRows(matrix.dtype, rows, matrix.cols, stored, to);
  }
}

// Experts that are stored as slots, in the types and order of rows that slots are to
// have: q8_0 if asked, interleaved or not.
void ConvertSlots(const TensorBinder& binder, StoredExperts* experts) {
  const ExpertLayout from = experts->layout;
  ExpertLayout to = from;
  if (binder.quantize()) {
    to = WithTypes(from, QuantizedType(from.gate_type, from.dim),
                   QuantizedType(from.up_type, from.dim), QuantizedType(from.down_type, from.ffn));
  }
  to.interleaved = binder.InterleavesSlots(to);
  if (from.gate_type == to.gate_type && from.up_type == to.up_type &&
      from.down_type == to.down_type && from.interleaved == to.interleaved) {
    return;
  }
  experts->layout = to;
  experts->decode = [from, to](std::span<const std::byte> stored, std::byte* slot) {
    ConvertExpert(from, to, stored.data(), slot);
  };
}

StoredExperts BindPacked(int count, int64_t dim, int64_t ffn, const std::string& prefix,
                         TensorBinder& binder) {
  StoredExperts experts;
  const auto* source = dynamic_cast<const PackedSource*>(&binder.source());
  const PackedLayer* layer = source == nullptr ? nullptr : source->FindLayer(prefix);
  if (layer == nullptr) {
    binder.Fail(absl::InvalidArgumentError(fmt::format("expert layer \"{}\" is missing", prefix)));
    return experts;
  }
  if (layer->count != count || layer->dim != dim || layer->ffn != ffn) {
    binder.Fail(absl::InvalidArgumentError(
        fmt::format("expert layer \"{}\" has {} experts of {} x {}, the configuration asks for {} "
                    "of {} x {}",
                    prefix, layer->count, layer->dim, layer->ffn, count, dim, ffn)));
    return experts;
  }
  experts.layout =
      ExpertLayout::Packed(dim, ffn, layer->gate, layer->up, layer->down, layer->biases);
  experts.layout.interleaved = source->manifest().interleaved() && AnyInterleaves(experts.layout);
  for (int e = 0; e < count; ++e) {
    experts.extents.push_back(
        {{PackedSource::kExpertsFile, layer->offset + e * layer->stride, layer->bytes}});
  }
  experts.check = [source, layer](int expert, std::span<const std::byte> stored) {
    return source->CheckExpert(*layer, expert, stored);
  };
  return experts;
}

// DeepSeek-V3's FP8: each 128 x 128 block of a matrix has an f32 scale.
StoredExperts BindFp8(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                      const std::string& prefix, TensorBinder& binder) {
  StoredExperts experts;
  const DType plain = binder.fp8_type();
  const auto held = [&](int64_t cols) {
    return binder.quantize() ? QuantizedType(plain, cols) : plain;
  };
  experts.layout = SlotLayout(dim, ffn, held(dim), held(dim), held(ffn), binder);
  for (int e = 0; e < count; ++e) {
    auto& extents = experts.extents.emplace_back();
    const std::string base = fmt::format("{}experts.{}.", prefix, e);
    for (const auto& [name, rows, cols] :
         {std::tuple{base + names.gate, ffn, dim}, std::tuple{base + names.up, ffn, dim},
          std::tuple{base + names.down, dim, ffn}}) {
      const TensorInfo* tensor = binder.CheckFp8(name, rows, cols);
      const TensorInfo* scales = binder.CheckFp8Scales(name, rows, cols);
      if (tensor == nullptr || scales == nullptr) return experts;
      extents.push_back(PartOf(*tensor, 0, 1));
      extents.push_back(PartOf(*scales, 0, 1));
    }
  }
  const ExpertLayout layout = experts.layout;
  experts.decode = [layout](std::span<const std::byte> stored, std::byte* slot) {
    const std::byte* in = stored.data();
    std::vector<float> values;
    for (const Weight& w : {layout.gate(slot), layout.up(slot), layout.down(slot)}) {
      const std::byte* scales = in + w.rows * w.cols;
      ScaleFp8(in, scales, w.rows, w.cols, &values);
      ConvertWeight({DType::kF32, w.rows, w.cols, std::as_bytes(std::span(values)).data()}, 0, w,
                    const_cast<std::byte*>(w.data));
      in = scales + Fp8ScaleBytes(w.rows, w.cols);
    }
  };
  return experts;
}

StoredExperts BindSeparate(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                           const std::string& prefix, TensorBinder& binder) {
  const std::string first = prefix + "experts.0.";
  if (binder.TypeOf(first + names.gate) == DType::kF8E4M3) {
    return BindFp8(names, count, dim, ffn, prefix, binder);
  }
  StoredExperts experts;
  experts.layout =
      ExpertLayout::Packed(dim, ffn, binder.TypeOf(first + names.gate),
                           binder.TypeOf(first + names.up), binder.TypeOf(first + names.down));
  for (int e = 0; e < count; ++e) {
    auto& extents = experts.extents.emplace_back();
    const std::string base = fmt::format("{}experts.{}.", prefix, e);
    for (const auto& [name, rows, cols, type] :
         {std::tuple{base + names.gate, ffn, dim, experts.layout.gate_type},
          std::tuple{base + names.up, ffn, dim, experts.layout.up_type},
          std::tuple{base + names.down, dim, ffn, experts.layout.down_type}}) {
      const TensorInfo* tensor = binder.CheckWeight(name, {rows, cols});
      if (tensor == nullptr) return experts;
      if (tensor->dtype != type) {
        binder.Fail(absl::UnimplementedError(
            fmt::format("tensor \"{}\" has type {}, this layer's other experts have {}", name,
                        GetDTypeInfo(tensor->dtype).name, GetDTypeInfo(type).name)));
        return experts;
      }
      extents.push_back(PartOf(*tensor, 0, 1));
    }
  }
  return experts;
}

StoredExperts BindStacked(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                          const std::string& prefix, TensorBinder& binder) {
  StoredExperts experts;
  const TensorInfo* gate = binder.CheckWeight(prefix + names.gate, {count, ffn, dim});
  const TensorInfo* up = binder.CheckWeight(prefix + names.up, {count, ffn, dim});
  const TensorInfo* down = binder.CheckWeight(prefix + names.down, {count, dim, ffn});
  if (gate == nullptr || up == nullptr || down == nullptr) return experts;
  experts.layout = ExpertLayout::Packed(dim, ffn, gate->dtype, up->dtype, down->dtype);
  for (int e = 0; e < count; ++e) {
    experts.extents.push_back(
        {PartOf(*gate, e, count), PartOf(*up, e, count), PartOf(*down, e, count)});
  }
  return experts;
}

// Adds the f32 biases of stacked experts, which then follow the matrices as
// they do in a slot.
void AddStackedBiases(const ExpertNames& names, int count, const std::string& prefix,
                      TensorBinder& binder, StoredExperts* experts) {
  const ExpertLayout plain = experts->layout;
  for (const auto& [name, size] :
       {std::pair{prefix + names.gate, plain.ffn}, std::pair{prefix + names.up, plain.ffn},
        std::pair{prefix + names.down, plain.dim}}) {
    const TensorInfo* bias = binder.CheckF32(name + "_bias", {count, size});
    if (bias == nullptr) return;
    for (int e = 0; e < count; ++e) experts->extents[e].push_back(PartOf(*bias, e, count));
  }
  experts->layout = ExpertLayout::Packed(plain.dim, plain.ffn, plain.gate_type, plain.up_type,
                                         plain.down_type, /*biases=*/true);
}

StoredExperts BindStackedGateUp(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                                const std::string& prefix, TensorBinder& binder) {
  StoredExperts experts;
  const TensorInfo* gate_up = binder.CheckWeight(prefix + names.gate, {count, 2 * ffn, dim});
  const TensorInfo* down = binder.CheckWeight(prefix + names.down, {count, dim, ffn});
  if (gate_up == nullptr || down == nullptr) return experts;
  experts.layout = ExpertLayout::Packed(dim, ffn, gate_up->dtype, gate_up->dtype, down->dtype);
  for (int e = 0; e < count; ++e) {
    experts.extents.push_back({PartOf(*gate_up, e, count), PartOf(*down, e, count)});
  }
  return experts;
}

// Column `column` of a [rows, cols] matrix of a plain type, as f32.
void ReadColumn(const std::byte* matrix, DType type, int64_t rows, int64_t cols, int64_t column,
                float* out) {
  const size_t bytes = GetDTypeInfo(type).block_bytes;
  for (int64_t row = 0; row < rows; ++row) {
    ConvertToF32(type, matrix + (row * cols + column) * bytes, 1, out + row);
  }
}

// Forms with [in, out] matrices: every row of a slot's matrix is a column of
// the file's. `alternate`: gate's and up's columns take turns.
StoredExperts BindTransposed(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                             bool alternate, const std::string& prefix, TensorBinder& binder) {
  StoredExperts experts;
  const TensorInfo* gate_up = binder.CheckWeight(prefix + names.gate, {count, dim, 2 * ffn});
  const TensorInfo* down = binder.CheckWeight(prefix + names.down, {count, ffn, dim});
  if (gate_up == nullptr || down == nullptr) return experts;
  const DType type = gate_up->dtype;
  if (GetDTypeInfo(type).block_elements != 1 || down->dtype != type) {
    binder.Fail(absl::UnimplementedError(fmt::format(
        "tensor \"{}\": transposed experts must be of one plain type", prefix + names.gate)));
    return experts;
  }
  for (int e = 0; e < count; ++e) {
    experts.extents.push_back({PartOf(*gate_up, e, count), PartOf(*down, e, count)});
  }
  const DType to = binder.quantize() ? QuantizedType(type, dim) : type;
  const DType down_to = binder.quantize() ? QuantizedType(type, ffn) : type;
  const ExpertLayout layout = SlotLayout(dim, ffn, to, to, down_to, binder);
  experts.layout = layout;
  experts.decode = [=](std::span<const std::byte> stored, std::byte* slot) {
    const std::byte* down_data = stored.data() + RowBytes(type, dim * 2 * ffn);
    std::vector<float> row(std::max(dim, ffn));
    WriteRows(layout.gate(slot), slot + layout.gate_offset, [&](int64_t i, std::byte* out) {
      ReadColumn(stored.data(), type, dim, 2 * ffn, alternate ? 2 * i : i, row.data());
      ToType(to, row.data(), dim, out);
    });
    WriteRows(layout.up(slot), slot + layout.up_offset, [&](int64_t i, std::byte* out) {
      ReadColumn(stored.data(), type, dim, 2 * ffn, alternate ? 2 * i + 1 : ffn + i, row.data());
      ToType(to, row.data(), dim, out);
    });
    WriteRows(layout.down(slot), slot + layout.down_offset, [&](int64_t i, std::byte* out) {
      ReadColumn(down_data, type, ffn, dim, i, row.data());
      ToType(down_to, row.data(), ffn, out);
    });
  };
  return experts;
}

// One row of safetensors' MXFP4 (16 bytes a block, neighbours share a byte;
// scales apart) as GGUF's (scale, then elements i and i + 16 share a byte).
void RepackMxfp4Row(const std::byte* blocks, const std::byte* scales, int64_t cols,
                    std::byte* out) {
  for (int64_t b = 0; b < cols / 32; ++b, blocks += 16, out += 17) {
    out[0] = scales[b];
    const auto element = [&](int i) {
      return i % 2 == 0 ? blocks[i / 2] & std::byte{15} : blocks[i / 2] >> 4;
    };
    for (int i = 0; i < 16; ++i) out[1 + i] = element(i) | element(i + 16) << 4;
  }
}

// gpt-oss as published: MXFP4 [out, in / 32] blocks and scales; gate's and
// up's rows take turns.
StoredExperts BindMxfp4(const ExpertNames& names, int count, int64_t dim, int64_t ffn,
                        const std::string& prefix, TensorBinder& binder) {
  StoredExperts experts;
  std::vector<const TensorInfo*> parts;
  for (const auto& [name, rows, cols] :
       {std::tuple{prefix + names.gate, 2 * ffn, dim}, std::tuple{prefix + names.down, dim, ffn}}) {
    if (cols % 32 != 0) {
      binder.Fail(absl::InvalidArgumentError(
          fmt::format("tensor \"{}_blocks\": rows of {} are no whole MXFP4 blocks", name, cols)));
      return experts;
    }
    parts.push_back(binder.CheckBytes(name + "_blocks", {count, rows, cols / 32, 16}));
    parts.push_back(binder.CheckBytes(name + "_scales", {count, rows, cols / 32}));
  }
  for (const TensorInfo* part : parts) {
    if (part == nullptr) return experts;
  }
  for (int e = 0; e < count; ++e) {
    auto& extents = experts.extents.emplace_back();
    for (const TensorInfo* part : parts) extents.push_back(PartOf(*part, e, count));
  }
  const ExpertLayout layout =
      SlotLayout(dim, ffn, DType::kMXFP4, DType::kMXFP4, DType::kMXFP4, binder);
  experts.layout = layout;
  experts.decode = [=](std::span<const std::byte> stored, std::byte* slot) {
    const std::byte* up_blocks = stored.data();
    const std::byte* up_scales = up_blocks + 2 * ffn * dim / 2;
    const std::byte* down_blocks = up_scales + 2 * ffn * dim / 32;
    const std::byte* down_scales = down_blocks + dim * ffn / 2;
    const auto up_row = [&](int64_t i, std::byte* out) {
      RepackMxfp4Row(up_blocks + i * dim / 2, up_scales + i * dim / 32, dim, out);
    };
    WriteRows(layout.gate(slot), slot + layout.gate_offset,
              [&](int64_t i, std::byte* out) { up_row(2 * i, out); });
    WriteRows(layout.up(slot), slot + layout.up_offset,
              [&](int64_t i, std::byte* out) { up_row(2 * i + 1, out); });
    WriteRows(layout.down(slot), slot + layout.down_offset, [&](int64_t i, std::byte* out) {
      RepackMxfp4Row(down_blocks + i * ffn / 2, down_scales + i * ffn / 32, ffn, out);
    });
  };
  return experts;
}

// Adds gpt-oss' biases to a decoded form: as f32 behind the matrices.
void AddInterleavedBiases(const ExpertNames& names, int count, const std::string& prefix,
                          TensorBinder& binder, StoredExperts* experts) {
  const ExpertLayout plain = experts->layout;
  const TensorInfo* gate_up =
      binder.CheckWeight(prefix + names.gate + "_bias", {count, 2 * plain.ffn});
  const TensorInfo* down = binder.CheckWeight(prefix + names.down + "_bias", {count, plain.dim});
  if (gate_up == nullptr || down == nullptr || experts->extents.empty()) return;
  ExpertLayout layout = ExpertLayout::Packed(plain.dim, plain.ffn, plain.gate_type, plain.up_type,
                                             plain.down_type, /*biases=*/true);
  layout.interleaved = plain.interleaved;
  size_t matrix_bytes = 0;
  for (const Extent& extent : experts->extents[0]) matrix_bytes += extent.bytes;
  for (int e = 0; e < count; ++e) {
    experts->extents[e].push_back(PartOf(*gate_up, e, count));
    experts->extents[e].push_back(PartOf(*down, e, count));
  }
  experts->layout = layout;
  experts->decode = [matrices = std::move(experts->decode), layout, matrix_bytes,
                     up_type = gate_up->dtype,
                     down_type = down->dtype](std::span<const std::byte> stored, std::byte* slot) {
    matrices(stored.first(matrix_bytes), slot);
    const std::byte* in = stored.data() + matrix_bytes;
    std::vector<float> both(2 * layout.ffn), gate(layout.ffn), up(layout.ffn), down(layout.dim);
    ConvertToF32(up_type, in, 2 * layout.ffn, both.data());
    ConvertToF32(down_type, in + RowBytes(up_type, 2 * layout.ffn), layout.dim, down.data());
    for (int64_t i = 0; i < layout.ffn; ++i) {
      gate[i] = both[2 * i];
      up[i] = both[2 * i + 1];
    }
    std::memcpy(slot + layout.gate_bias, gate.data(), gate.size() * sizeof(float));
    std::memcpy(slot + layout.up_bias, up.data(), up.size() * sizeof(float));
    std::memcpy(slot + layout.down_bias, down.data(), down.size() * sizeof(float));
  };
}

class StoredExpertStore : public ExpertStore {
 public:
  explicit StoredExpertStore(std::vector<StoredExperts> layers) : layers_(std::move(layers)) {}

  int num_layers() const override { return static_cast<int>(layers_.size()); }
  int num_experts(int layer) const override {
    return static_cast<int>(layers_[layer].extents.size());
  }
  size_t slot_bytes(int layer) const override { return layers_[layer].layout.bytes; }
  std::span<const Extent> extents(ExpertKey key) const override {
    return layers_[key.layer].extents[key.expert];
  }
  bool needs_decode(int layer) const override { return layers_[layer].decode != nullptr; }
  absl::Status Check(ExpertKey key, std::span<const std::byte> stored) const override {
    const auto& check = layers_[key.layer].check;
    return check == nullptr ? absl::OkStatus() : check(key.expert, stored);
  }
  absl::Status Decode(ExpertKey key, std::span<const std::byte> stored,
                      std::span<std::byte> slot) const override {
    layers_[key.layer].decode(stored, slot.data());
    return absl::OkStatus();
  }

 private:
  std::vector<StoredExperts> layers_;
};

}  // namespace

StoredExperts BindExperts(const ExpertNames& names, int experts, int64_t dim, int64_t ffn,
                          const ActivationSpec& activation, const std::string& prefix,
                          TensorBinder& binder) {
  StoredExperts bound;
  switch (names.form) {
    case ExpertForm::kSeparate:
      bound = BindSeparate(names, experts, dim, ffn, prefix, binder);
      break;
    case ExpertForm::kStacked:
      bound = BindStacked(names, experts, dim, ffn, prefix, binder);
      break;
    case ExpertForm::kStackedBiased:
      bound = BindStacked(names, experts, dim, ffn, prefix, binder);
      if (binder.status().ok()) AddStackedBiases(names, experts, prefix, binder, &bound);
      break;
    case ExpertForm::kStackedGateUp:
      bound = BindStackedGateUp(names, experts, dim, ffn, prefix, binder);
      break;
    case ExpertForm::kTransposedGateUp:
      bound = BindTransposed(names, experts, dim, ffn, /*alternate=*/false, prefix, binder);
      break;
    case ExpertForm::kInterleaved:
      bound = binder.Has(prefix + names.gate + "_blocks")
                  ? BindMxfp4(names, experts, dim, ffn, prefix, binder)
                  : BindTransposed(names, experts, dim, ffn, /*alternate=*/true, prefix, binder);
      if (binder.status().ok()) AddInterleavedBiases(names, experts, prefix, binder, &bound);
      break;
    case ExpertForm::kPacked:
      bound = BindPacked(experts, dim, ffn, prefix, binder);
      break;
  }
  if (binder.status().ok() && bound.decode == nullptr) ConvertSlots(binder, &bound);
  bound.layout.activation = activation;
  bound.name = prefix;
  return bound;
}

bool AnyInterleaves(const ExpertLayout& layout) {
  return CanInterleave(layout.gate_type) || CanInterleave(layout.up_type) ||
         CanInterleave(layout.down_type);
}

ExpertLayout WithTypes(const ExpertLayout& layout, DType gate, DType up, DType down) {
  ExpertLayout changed = ExpertLayout::Packed(layout.dim, layout.ffn, gate, up, down,
                                              layout.gate_bias != ExpertLayout::kNone);
  changed.activation = layout.activation;
  return changed;
}

void ConvertExpert(const ExpertLayout& from, const ExpertLayout& to, const std::byte* in,
                   std::byte* out) {
  ConvertWeight(from.gate(in), 0, to.gate(out), out + to.gate_offset);
  ConvertWeight(from.up(in), 0, to.up(out), out + to.up_offset);
  ConvertWeight(from.down(in), 0, to.down(out), out + to.down_offset);
  // The biases come last in both.
  if (from.gate_bias != ExpertLayout::kNone) {
    std::memcpy(out + to.gate_bias, in + from.gate_bias, from.bytes - from.gate_bias);
  }
}

std::unique_ptr<ExpertStore> NewExpertStore(std::vector<StoredExperts> layers) {
  return std::make_unique<StoredExpertStore>(std::move(layers));
}

}  // namespace hostler
