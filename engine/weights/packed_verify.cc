#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "engine/weights/packed.h"

namespace hostler {
namespace {

constexpr size_t kChunkBytes = size_t{8} << 20;

class Verification {
 public:
  Verification(const PackedSource& source, const PackProgress& progress)
      : source_(source), manifest_(source.manifest()), progress_(progress) {
    for (const PackedFile& file : manifest_.files) total_ += file.bytes;
  }

  absl::StatusOr<PackedReport> Run() {
    report_.files = static_cast<int64_t>(manifest_.files.size());
    // Those with a checksum of their own were checked when the store was opened.
    for (const PackedFile& file : manifest_.files) {
      if (file.checksum) report_.bytes += file.bytes;
    }
    HOSTLER_RETURN_IF_ERROR(CheckTensors());
    if (!manifest_.layers.empty()) HOSTLER_RETURN_IF_ERROR(CheckExperts());
    return std::move(report_);
  }

 private:
  absl::Status Advance(uint64_t bytes) {
    report_.bytes += bytes;
    return progress_(report_.bytes, total_) ? absl::OkStatus()
                                            : absl::CancelledError("interrupted");
  }

  absl::Status CheckTensors() {
    for (size_t i = 0; i < manifest_.tensors.size(); ++i) {
      const TensorInfo& tensor = manifest_.tensors[i];
      RunningChecksum sum;
      std::span<const std::byte> data = source_.Data(tensor);
      while (!data.empty()) {
        const auto chunk = data.first(std::min(data.size(), kChunkBytes));
        sum.Add(chunk);
        data = data.subspan(chunk.size());
        HOSTLER_RETURN_IF_ERROR(Advance(chunk.size()));
      }
      HOSTLER_RETURN_IF_ERROR(source_.Health());
      ++report_.tensors;
      if (sum.Get() == manifest_.tensor_checksums[i]) continue;
      report_.problems.push_back(fmt::format(
          "{}: tensor {} ({} bytes at {}) is damaged: its checksum is {}, {} was packed",
          source_.files()[0], Quoted(tensor.name), tensor.bytes, tensor.offset,
          ChecksumText(sum.Get()), ChecksumText(manifest_.tensor_checksums[i])));
    }
    return absl::OkStatus();
  }

  absl::Status CheckExperts() {
    HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file,
                             MappedFile::Open(source_.files()[PackedSource::kExpertsFile]));
    for (const PackedLayer& layer : manifest_.layers) {
      for (int expert = 0; expert < layer.count; ++expert) {
        const uint64_t offset = layer.offset + expert * layer.stride;
        if (offset + layer.bytes > file->bytes().size()) {
          return absl::DataLossError(fmt::format("{}: its size has changed", file->path()));
        }
        const absl::Status status =
            source_.CheckExpert(layer, expert, file->bytes().subspan(offset, layer.bytes));
        HOSTLER_RETURN_IF_ERROR(file->Health());
        ++report_.experts;
        if (!status.ok()) report_.problems.emplace_back(status.message());
        HOSTLER_RETURN_IF_ERROR(Advance(layer.bytes));
      }
    }
    return absl::OkStatus();
  }

  const PackedSource& source_;
  const PackedManifest& manifest_;
  const PackProgress& progress_;
  uint64_t total_ = 0;
  PackedReport report_;
};

}  // namespace

absl::StatusOr<PackedReport> VerifyPacked(const std::string& directory,
                                          const PackProgress& progress) {
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) {
    return absl::NotFoundError(fmt::format("{}: no such file or directory", directory));
  }
  if (!HoldsPackedStore(directory)) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: no packed store (it has no {}); only what `hostler pack` writes has checksums",
        directory, kPackedManifest));
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<PackedSource> source, OpenPacked(directory));
  return Verification(*source, progress).Run();
}

}  // namespace hostler
