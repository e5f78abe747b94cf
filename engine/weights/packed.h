// The packed store: a directory that `hostler pack` wrote, with a model ready to
// be served. The experts lie in experts.bin as cache slots hold them, each
// contiguous and 4 KiB-aligned, so that a miss is one read; all other tensors in
// dense.bin, which is mapped. Beside them manifest.json, a checksum of each
// expert (checksums.bin), the tokenizer's files of a Hugging Face model and the
// metadata of a GGUF one.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/weights/gguf.h"
#include "engine/weights/mapped_source.h"
#include "engine/weights/packed_manifest.h"

namespace hostler {

class PackedSource : public MappedSource {
 public:
  std::string_view format() const override { return "packed"; }
  // dense.bin and, when there are experts, experts.bin.
  std::span<const std::string> files() const override { return paths_; }

  const PackedManifest& manifest() const { return manifest_; }
  // Null unless the model came from GGUF.
  const GgufMetadata* gguf() const { return gguf_ ? &*gguf_ : nullptr; }

  // Null when there is none. `name` as in PackedLayer.
  const PackedLayer* FindLayer(std::string_view name) const;
  // Index into files() of the experts' file.
  static constexpr int kExpertsFile = 1;

  // DataLoss, naming layer, expert and file, unless `bytes` are those that were
  // packed.
  absl::Status CheckExpert(const PackedLayer& layer, int expert,
                           std::span<const std::byte> bytes) const;

 private:
  friend absl::StatusOr<std::unique_ptr<PackedSource>> OpenPacked(const std::string& directory);

  absl::Status Open(const std::string& directory);
  absl::Status OpenChecked(const PackedFile& file, const std::string& path);

  PackedManifest manifest_;
  std::optional<GgufMetadata> gguf_;
  std::vector<std::string> paths_;
  std::vector<uint64_t> expert_checksums_;  // [experts of all layers]
  std::unordered_map<std::string_view, const PackedLayer*> layers_;
};

// Whether `directory` has a manifest.json.
bool HoldsPackedStore(const std::string& directory);

// Checks the manifest and what else is small against their checksums, and the
// sizes of all files. Errors: NotFound; DataLoss naming the file that is not as
// it was packed; ParsePackedManifest's.
absl::StatusOr<std::unique_ptr<PackedSource>> OpenPacked(const std::string& directory);

// What VerifyPacked() looked at and found.
struct PackedReport {
  uint64_t bytes = 0;
  int64_t files = 0, tensors = 0, experts = 0;
  std::vector<std::string> problems;  // what is not as it was packed, and where; in order
};

// Told of bytes done and in all; false ends the work.
using PackProgress = std::function<bool(uint64_t done, uint64_t total)>;

// Reads a whole store and compares every checksum. Errors: as OpenPacked;
// FailedPrecondition when `directory` is no packed store; Cancelled.
absl::StatusOr<PackedReport> VerifyPacked(const std::string& directory,
                                          const PackProgress& progress);

}  // namespace hostler
