#include "engine/weights/safetensors.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <unordered_map>

#include "engine/base/status.h"
#include "engine/weights/mapped_source.h"

namespace hostler {
namespace {

class SafetensorsSource : public MappedSource {
 public:
  std::string_view format() const override { return "safetensors"; }

  // Maps `path` as the next file and parses its header.
  absl::StatusOr<std::vector<TensorInfo>> Open(const std::string& path) {
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
    absl::StatusOr<std::vector<TensorInfo>> tensors = ParseSafetensorsHeader(file->bytes(), path);
    // A header that could not be read looks like a bad one.
    HOSTLER_RETURN_IF_ERROR(file->Health());
    if (!tensors.ok()) return tensors;
    const int index = AddFile(std::move(file));
    for (TensorInfo& tensor : *tensors) tensor.file = index;
    return tensors;
  }

  using MappedSource::SetTensors;
};

absl::StatusOr<std::unique_ptr<WeightSource>> OpenSingle(const std::string& path) {
  auto source = std::make_unique<SafetensorsSource>();
  HOSTLER_ASSIGN_OR_RETURN(std::vector<TensorInfo> tensors, source->Open(path));
  source->SetTensors(std::move(tensors));
  return source;
}

// Takes from `shard_tensors` those the index puts into this shard.
absl::Status TakeIndexed(const std::vector<std::string>& names, const std::string& shard_path,
                         const std::string& index_path, std::vector<TensorInfo> shard_tensors,
                         std::vector<TensorInfo>* all) {
  std::unordered_map<std::string_view, TensorInfo*> in_shard;
  for (TensorInfo& tensor : shard_tensors) in_shard.emplace(tensor.name, &tensor);
  std::vector<TensorInfo*> wanted;
  wanted.reserve(names.size());
  for (const std::string& name : names) {
    const auto it = in_shard.find(name);
    if (it == in_shard.end()) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: tensor \"{}\" is not in the shard that {} names", shard_path, name, index_path));
    }
    wanted.push_back(it->second);
  }
  in_shard.clear();
  for (TensorInfo* tensor : wanted) all->push_back(std::move(*tensor));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WeightSource>> OpenSharded(const std::filesystem::path& index_path) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> index,
                           MappedFile::Open(index_path.string()));
  auto entries = ParseSafetensorsIndex(index->bytes(), index_path.string());
  HOSTLER_RETURN_IF_ERROR(index->Health());
  if (!entries.ok()) return std::move(entries).status();

  std::map<std::string, std::vector<std::string>> names_of_shard;
  for (auto& [name, shard] : *entries) names_of_shard[shard].push_back(std::move(name));
  auto source = std::make_unique<SafetensorsSource>();
  std::vector<TensorInfo> all;
  all.reserve(entries->size());
  for (const auto& [shard, names] : names_of_shard) {
    const std::string path = (index_path.parent_path() / shard).string();
    HOSTLER_ASSIGN_OR_RETURN(std::vector<TensorInfo> tensors, source->Open(path));
    HOSTLER_RETURN_IF_ERROR(
        TakeIndexed(names, path, index_path.string(), std::move(tensors), &all));
  }
  source->SetTensors(std::move(all));
  return source;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenSafetensors(const std::string& directory) {
  const std::filesystem::path single = std::filesystem::path(directory) / "model.safetensors";
  const std::filesystem::path index =
      std::filesystem::path(directory) / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) return OpenSingle(single.string());
  if (std::filesystem::exists(index, ignored)) return OpenSharded(index);
  return absl::NotFoundError(fmt::format(
      "{}: neither model.safetensors nor model.safetensors.index.json is there", directory));
}

}  // namespace hostler
