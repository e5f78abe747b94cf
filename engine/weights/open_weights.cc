#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>

#include "engine/base/status.h"
#include "engine/weights/gguf.h"
#include "engine/weights/packed.h"
#include "engine/weights/source.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

bool IsGguf(const fs::path& path) {
  std::array<char, 4> magic = {};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic.data(), magic.size()) && std::string_view(magic.data(), 4) == "GGUF";
}

bool HoldsSafetensors(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / "model.safetensors", ignored) ||
         fs::exists(directory / "model.safetensors.index.json", ignored);
}

// What lies in a directory, as far as it matters here.
struct Listing {
  std::vector<std::string> names;  // the first few, for an error
  int count = 0;
  std::set<std::string> gguf_models;  // a split model once, by its part 1
};

absl::StatusOr<Listing> List(const fs::path& directory) {
  constexpr int kMaxNames = 5;
  Listing listing;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (++listing.count <= kMaxNames) listing.names.push_back(it->path().filename().string());
    if (it->path().extension() != ".gguf") continue;
    const std::string path = it->path().string();
    const std::optional<GgufPartName> part = GgufPartName::Parse(path);
    listing.gguf_models.insert(part ? part->Path(1) : path);
  }
  if (error) {
    return absl::PermissionDeniedError(fmt::format("{}: {}", directory.string(), error.message()));
  }
  return listing;
}

// Opens the one GGUF model of a directory without safetensors.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenGgufIn(const fs::path& directory) {
  HOSTLER_ASSIGN_OR_RETURN(const Listing listing, List(directory));
  const std::set<std::string>& models = listing.gguf_models;
  if (models.size() == 1) return OpenGguf(*models.begin());
  if (models.size() > 1) {
    return absl::InvalidArgumentError(
        fmt::format("{}: several GGUF models, among them {} and {}; name one", directory.string(),
                    *models.begin(), *std::next(models.begin())));
  }
  if (listing.count == 0) {
    return absl::UnimplementedError(
        fmt::format("{}: an empty directory, no model", directory.string()));
  }
  return absl::UnimplementedError(fmt::format(
      "{}: a directory without model.safetensors, its index or a .gguf file; it has {}{}",
      directory.string(), fmt::join(listing.names, ", "),
      listing.count > static_cast<int>(listing.names.size()) ? ", ..." : ""));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(fmt::format("{}: no such file or directory", path));
  }
  if (error) return absl::PermissionDeniedError(fmt::format("{}: {}", path, error.message()));
  if (status.type() == fs::file_type::directory) {
    if (HoldsSafetensors(path)) return OpenSafetensors(path);
    return HoldsPackedStore(path) ? OpenPacked(path) : OpenGgufIn(path);
  }
  if (status.type() != fs::file_type::regular) {
    return absl::UnimplementedError(fmt::format("{}: neither a file nor a directory", path));
  }
  if (IsGguf(path)) return OpenGguf(path);
  const fs::path file(path);
  if (file.extension() == ".safetensors") {
    const fs::path directory = file.parent_path();
    return OpenSafetensors(directory.empty() ? "." : directory.string());
  }
  return absl::UnimplementedError(
      fmt::format("{}: a file that is neither safetensors nor GGUF", path));
}

}  // namespace hostler
