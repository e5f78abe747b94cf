// manifest.json of a packed store: what the model is and where in the store's
// files everything lies. engine/weights/packed.h describes the store.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/dtype.h"
#include "engine/weights/source.h"
#include "nlohmann/json.hpp"

namespace hostler {

inline constexpr int kPackedVersion = 1;
// How matrices lie, experts' and others'. 1: row after row. 2: interleaved, whatever
// can be: an expert's matrices and tensors that LiesInterleaved() is true of.
inline constexpr int kPackedRows = 1, kPackedInterleaved = 2;

inline constexpr const char* kPackedManifest = "manifest.json";
inline constexpr const char* kPackedManifestSum = "manifest.xxh3";  // the manifest's checksum
inline constexpr const char* kPackedDense = "dense.bin";
inline constexpr const char* kPackedExperts = "experts.bin";
inline constexpr const char* kPackedChecksums = "checksums.bin";  // a u64 for each expert
inline constexpr const char* kPackedGguf = "metadata.gguf";

inline constexpr uint64_t kPackedTensorAlignment = 64;
inline constexpr uint64_t kPackedExpertAlignment = 4096;

struct PackedFile {
  std::string name;  // without any directory
  uint64_t bytes = 0;
  // Of the whole file; dense.bin and experts.bin have finer ones.
  std::optional<uint64_t> checksum;
};

// One MoE layer: `count` experts at offset, offset + stride, ... of experts.bin.
struct PackedLayer {
  std::string name;  // what its tensors' names begin with: "model.layers.3.mlp."
  int count = 0;
  int64_t dim = 0, ffn = 0;
  DType gate = DType::kBF16, up = DType::kBF16, down = DType::kBF16;
  bool biases = false;
  uint64_t bytes = 0;  // of an expert; the rest of its stride is zeros
  uint64_t stride = 0;
  uint64_t offset = 0;
  uint64_t first_checksum = 0;  // index into checksums.bin

  // What the matrices and biases take, one after another.
  uint64_t ContentBytes() const;
  uint64_t Parameters() const;  // of an expert
};

// Whether a store with interleaved matrices has a tensor of this type and shape so.
bool LiesInterleaved(DType type, const std::vector<int64_t>& shape);

struct PackedManifest {
  int kernel_layout = kPackedInterleaved;
  std::string type;           // "keep", "bf16", "q8", "q4"
  std::string source_format;  // "safetensors", "gguf", "packed"
  std::string source_hash;    // XXH3-128 over what was read, 32 hexadecimal digits
  nlohmann::json config, generation;
  std::vector<PackedFile> files;
  std::vector<TensorInfo> tensors;         // in dense.bin, by offset
  std::vector<uint64_t> tensor_checksums;  // of each
  std::vector<PackedLayer> layers;         // by offset

  bool interleaved() const { return kernel_layout == kPackedInterleaved; }
  const PackedFile* FindFile(std::string_view name) const;
};

std::string WritePackedManifest(const PackedManifest& manifest);

// Reads a manifest: a pure function over hostile bytes. What it returns fits
// together: every range lies within its file's stated size, none overlap, sizes
// follow from types and shapes. `path` only appears in errors. Errors:
// InvalidArgument naming the entry; Unimplemented for a version or kernel layout that
// we do not read.
absl::StatusOr<PackedManifest> ParsePackedManifest(std::string_view json, const std::string& path);

}  // namespace hostler
