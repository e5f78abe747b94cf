#include "engine/model/model_files.h"

#include <filesystem>
#include <utility>

#include "engine/base/status.h"
#include "engine/model/architectures.h"
#include "engine/model/config_reader.h"
#include "engine/model/gguf_model.h"
#include "fmt/format.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ModelFiles::Configure() const {
  const Architecture* architecture = FindArchitecture(config);
  if (architecture == nullptr) {
    return absl::UnimplementedError(fmt::format("architecture \"{}\" (supported: {})",
                                                ArchitectureName(config), ArchitectureNames()));
  }
  absl::StatusOr<DecoderConfig> decoder = architecture->configure(config);
  if (!decoder.ok()) return gguf == nullptr ? decoder : InGgufTerms(decoder.status(), *gguf);
  if (gguf != nullptr) AdaptToGguf(&*decoder);
  if (packed != nullptr) decoder->expert_names.form = ExpertForm::kPacked;
  return decoder;
}

bool ModelFiles::HoldsQuantized() const {
  return packed != nullptr && (packed->manifest().type == "q8" || packed->manifest().type == "q4");
}

absl::StatusOr<ModelFiles> OpenModelFiles(const std::string& path) {
  ModelFiles files;
  HOSTLER_ASSIGN_OR_RETURN(files.weights, OpenWeights(path));
  files.generation = nlohmann::json::object();
  if (auto* gguf = dynamic_cast<GgufSource*>(files.weights.get())) {
    HOSTLER_ASSIGN_OR_RETURN(files.config, GgufConfig(*gguf));
    files.gguf = &gguf->metadata();
    files.weights.release();
    files.weights = RenameGgufTensors(std::unique_ptr<GgufSource>(gguf));
    return files;
  }
  if (const auto* packed = dynamic_cast<const PackedSource*>(files.weights.get())) {
    files.config = packed->manifest().config;
    files.generation = packed->manifest().generation;
    files.gguf = packed->gguf();
    files.packed = packed;
    return files;
  }
  const std::filesystem::path directory(path);
  HOSTLER_ASSIGN_OR_RETURN(files.config, ReadJsonFile((directory / "config.json").string()));
  const std::string generation = (directory / "generation_config.json").string();
  if (std::filesystem::exists(generation)) {
    HOSTLER_ASSIGN_OR_RETURN(files.generation, ReadJsonFile(generation));
  }
  return files;
}

}  // namespace hostler
