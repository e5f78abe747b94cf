#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>

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

absl::Status GgufUnsupported(const fs::path& path) {
  return absl::UnimplementedError(
      fmt::format("{}: GGUF files are not supported yet", path.string()));
}

// Why a directory without safetensors is no model, by what lies in it.
absl::Status UnknownDirectory(const fs::path& directory) {
  constexpr int kMaxNames = 5;
  std::string names;
  int count = 0;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf") return GgufUnsupported(it->path());
    if (++count > kMaxNames) continue;
    names += (count == 1 ? "" : ", ") + it->path().filename().string();
  }
  if (error) {
    return absl::PermissionDeniedError(fmt::format("{}: {}", directory.string(), error.message()));
  }
  if (count == 0) {
    return absl::UnimplementedError(
        fmt::format("{}: an empty directory, no model", directory.string()));
  }
  return absl::UnimplementedError(
      fmt::format("{}: a directory without model.safetensors or its index; it has {}{}",
                  directory.string(), names, count > kMaxNames ? ", ..." : ""));
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
    return HoldsSafetensors(path) ? OpenSafetensors(path) : UnknownDirectory(path);
  }
  if (status.type() != fs::file_type::regular) {
    return absl::UnimplementedError(fmt::format("{}: neither a file nor a directory", path));
  }
  if (IsGguf(path)) return GgufUnsupported(path);
  const fs::path file(path);
  if (file.extension() == ".safetensors") {
    const fs::path directory = file.parent_path();
    return OpenSafetensors(directory.empty() ? "." : directory.string());
  }
  return absl::UnimplementedError(
      fmt::format("{}: a file that is neither safetensors nor GGUF", path));
}

}  // namespace hostler
