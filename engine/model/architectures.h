// One row per architecture. A new one is a file in families/ with a function
// of this type, its line in registry.cc and in CMakeLists.txt, and a golden
// test.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/decoder.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct Architecture {
  std::string_view name;        // config.json's model_type
  std::string_view class_name;  // in config.json's architectures

  // Reads a configuration. Errors: InvalidArgument for what is malformed,
  // naming the key; for what cannot be served too, saying so.
  absl::StatusOr<DecoderConfig> (*configure)(const nlohmann::json& config);
};

// Null when no row fits.
const Architecture* FindArchitecture(const nlohmann::json& config);

// The architecture a configuration names, known or not.
std::string ArchitectureName(const nlohmann::json& config);

// "deepseek_v2, deepseek_v3, ...": for messages.
std::string ArchitectureNames();

// families/*.cc
absl::StatusOr<DecoderConfig> ConfigureDeepseekV2(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureDeepseekV3(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureErnie45Moe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGemma2(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGemma3(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGlm4Moe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGptOss(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGranite(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureGraniteMoe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureLlama(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureLlama4(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureMinimaxM2(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureMistral(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureMixtral(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureOlmoe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigurePhi3(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigurePhimoe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureQwen2(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureQwen2Moe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureQwen3(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureQwen3Moe(const nlohmann::json& config);
absl::StatusOr<DecoderConfig> ConfigureQwen3Next(const nlohmann::json& config);

}  // namespace hostler
