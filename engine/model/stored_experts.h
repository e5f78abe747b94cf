// The forms in which files hold experts, and how each becomes a slot.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "engine/compute/backend.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

// How a layer's experts are named and laid out. Matrices are [out, in] unless
// they are called transposed.
enum class ExpertForm {
  kSeparate,          // three matrices for each expert: prefix + "experts.7." + part
  kStacked,           // three tensors [experts, out, in]: prefix + part
  kStackedBiased,     // the same, and three [experts, out]: prefix + part + "_bias"
  kStackedGateUp,     // input [experts, 2 ffn, dim], gate's rows first; output [experts, dim, ffn]
  kTransposedGateUp,  // [experts, dim, 2 ffn], gate's columns first; [experts, ffn, dim] (Llama 4)
  kInterleaved,       // [experts, dim, 2 ffn], gate and up columns alternate, biases (gpt-oss);
                      // or the same as MXFP4 blocks and scales, [experts, 2 ffn, dim / 32, ...]
  kPacked,            // of a packed store, whatever they are called
};

struct ExpertNames {
  ExpertForm form = ExpertForm::kSeparate;
  // Below the layer's prefix, or below "experts.7." for kSeparate. Two-tensor
  // forms use gate for gate and up together.
  std::string gate = "gate_proj.weight", up = "up_proj.weight", down = "down_proj.weight";
};

// One MoE layer's experts.
struct StoredExperts {
  std::string name;                          // the layer's prefix, "model.layers.3.mlp."
  ExpertLayout layout;                       // of a slot
  std::vector<std::vector<Extent>> extents;  // [experts]
  // Fills a slot (of `layout`) from an expert's extents, concatenated. Null: they are it.
  std::function<void(std::span<const std::byte> stored, std::byte* slot)> decode;
  // DataLoss unless `stored` is what was written. Null: nothing to compare with.
  std::function<absl::Status(int expert, std::span<const std::byte> stored)> check;
};

// Whether a matrix of the layout has an interleaved form.
bool AnyInterleaves(const ExpertLayout& layout);

// `layout` with matrices of other types, their rows as stored.
ExpertLayout WithTypes(const ExpertLayout& layout, DType gate, DType up, DType down);

// Turns a slot laid out as `from` into one laid out as `to`, which differs in types
// and order of rows only.
void ConvertExpert(const ExpertLayout& from, const ExpertLayout& to, const std::byte* in,
                   std::byte* out);

// Binds layer `prefix`'s experts. Problems go to `binder`; the result is then
// not to be used.
StoredExperts BindExperts(const ExpertNames& names, int experts, int64_t dim, int64_t ffn,
                          const ActivationSpec& activation, const std::string& prefix,
                          TensorBinder& binder);

std::unique_ptr<ExpertStore> NewExpertStore(std::vector<StoredExperts> layers);

}  // namespace hostler
