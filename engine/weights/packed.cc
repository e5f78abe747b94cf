#include "engine/weights/packed.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <filesystem>

#include "engine/base/checksum.h"
#include "engine/base/status.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little);

constexpr size_t kMostManifestBytes = size_t{1} << 30;

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::Status NotAsPacked(const std::string& path, std::string_view why) {
  return absl::DataLossError(
      fmt::format("{}: not as it was packed: {}. Pack the model again", path, why));
}

absl::StatusOr<PackedManifest> ReadManifest(const fs::path& directory) {
  const std::string path = (directory / kPackedManifest).string();
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const std::string_view text = Text(file->bytes());
  if (text.size() > kMostManifestBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes is too large", path, text.size()));
  }
  absl::StatusOr<PackedManifest> manifest = ParsePackedManifest(text, path);
  const uint64_t checksum = Checksum(text);
  HOSTLER_RETURN_IF_ERROR(file->Health());
  HOSTLER_RETURN_IF_ERROR(manifest.status());
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> sum,
                           MappedFile::Open((directory / kPackedManifestSum).string()));
  const std::string expected = ChecksumText(checksum) + "\n";
  if (Text(sum->bytes()) != expected) {
    return NotAsPacked(path, fmt::format("its checksum is not the one in {}", kPackedManifestSum));
  }
  return manifest;
}

}  // namespace

const PackedLayer* PackedSource::FindLayer(std::string_view name) const {
  const auto found = layers_.find(name);
  return found == layers_.end() ? nullptr : found->second;
}

absl::Status PackedSource::CheckExpert(const PackedLayer& layer, int expert,
                                       std::span<const std::byte> bytes) const {
  const uint64_t expected = expert_checksums_[layer.first_checksum + expert];
  const uint64_t found = Checksum(bytes);
  if (found == expected) return absl::OkStatus();
  return absl::DataLossError(fmt::format(
      "{}: layer \"{}\", expert {} ({} bytes at {}) is damaged: its checksum is {}, "
      "{} was packed",
      paths_[kExpertsFile], layer.name, expert, layer.bytes, layer.offset + expert * layer.stride,
      ChecksumText(found), ChecksumText(expected)));
}

// A file with a checksum of its own.
absl::Status PackedSource::OpenChecked(const PackedFile& file, const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  const uint64_t found = Checksum(mapped->bytes());
  if (file.name == kPackedChecksums) {
    expert_checksums_.resize(mapped->bytes().size() / sizeof(uint64_t));
    if (!expert_checksums_.empty()) {
      std::memcpy(expert_checksums_.data(), mapped->bytes().data(),
                  expert_checksums_.size() * sizeof(uint64_t));
    }
  }
  absl::StatusOr<GgufHeader> header;
  if (file.name == kPackedGguf) header = ParseGguf(mapped->bytes(), path);
  HOSTLER_RETURN_IF_ERROR(mapped->Health());
  if (found != *file.checksum) {
    return NotAsPacked(path, fmt::format("its checksum is {}, {} was packed", ChecksumText(found),
                                         ChecksumText(*file.checksum)));
  }
  if (file.name != kPackedGguf) return absl::OkStatus();
  HOSTLER_RETURN_IF_ERROR(header.status());
  gguf_ = std::move(header->metadata);
  return absl::OkStatus();
}

absl::Status PackedSource::Open(const std::string& directory) {
  HOSTLER_ASSIGN_OR_RETURN(manifest_, ReadManifest(directory));
  for (const PackedFile& file : manifest_.files) {
    const std::string path = (fs::path(directory) / file.name).string();
    std::error_code error;
    const uint64_t bytes = fs::file_size(path, error);
    if (error) return NotAsPacked(path, error.message());
    if (bytes != file.bytes) {
      return NotAsPacked(path, fmt::format("it has {} bytes, {} were packed", bytes, file.bytes));
    }
    if (file.checksum) HOSTLER_RETURN_IF_ERROR(OpenChecked(file, path));
  }
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> dense,
                           MappedFile::Open((fs::path(directory) / kPackedDense).string()));
  // The file may have been changed since it was looked at.
  if (dense->bytes().size() != manifest_.FindFile(kPackedDense)->bytes) {
    return NotAsPacked(dense->path(), "its size has changed");
  }
  paths_ = {dense->path()};
  AddFile(std::move(dense));
  if (!manifest_.layers.empty()) {
    paths_.push_back((fs::path(directory) / kPackedExperts).string());
  }
  if (expert_checksums_.size() * sizeof(uint64_t) !=
      (manifest_.layers.empty() ? 0 : manifest_.FindFile(kPackedChecksums)->bytes)) {
    return NotAsPacked((fs::path(directory) / kPackedChecksums).string(), "its size has changed");
  }
  SetTensors(manifest_.tensors);
  for (const PackedLayer& layer : manifest_.layers) layers_.emplace(layer.name, &layer);
  return absl::OkStatus();
}

bool HoldsPackedStore(const std::string& directory) {
  std::error_code ignored;
  return fs::exists(fs::path(directory) / kPackedManifest, ignored);
}

absl::StatusOr<std::unique_ptr<PackedSource>> OpenPacked(const std::string& directory) {
  auto source = std::make_unique<PackedSource>();
  HOSTLER_RETURN_IF_ERROR(source->Open(directory));
  return source;
}

}  // namespace hostler
