// Writes a model as a packed store (engine/weights/packed.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/weights/packed.h"

namespace hostler {

// The types that matrices and experts are stored in. Norms, gates, biases and
// what the model rearranges when it is loaded stay as they are.
enum class PackType {
  kKeep,  // as the source has them; what no kernel computes with, as served (FP8: bf16)
  kBF16,
  kQ8,  // plain types to q8_0 where their rows are whole blocks of 32: as --quantize q8
  kQ4,  // types above 4.5 bits to q4_0 likewise; embeddings and the head as kQ8
};

// "keep", "bf16", "q8", "q4". Errors: InvalidArgument.
absl::StatusOr<PackType> ParsePackType(std::string_view name);

struct PackOptions {
  PackType type = PackType::kKeep;
  bool replace = false;  // an existing packed store
  PackProgress progress = nullptr;
};

struct PackSummary {
  uint64_t read_bytes = 0, written_bytes = 0;
  int64_t tensors = 0, layers = 0, experts = 0;
  std::string source_format, source_hash;
};

// Packs the model at `path` into the new directory `target`. Holds a few experts
// in memory at a time. On an error nothing is left at `target` that was not
// there before. Errors: as LoadModel, the readers' and PackDirectory's; Cancelled.
absl::StatusOr<PackSummary> PackModel(const std::string& path, const std::string& target,
                                      const PackOptions& options);

// Whether the store's tensors and experts are what its configuration asks for.
absl::Status CheckPackedModel(const std::string& directory);

}  // namespace hostler
