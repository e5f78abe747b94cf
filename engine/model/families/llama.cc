// Llama 2 and 3 (Touvron et al. 2023; Dubey et al. 2024), and Mistral, which
// adds a sliding window.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureLlama(const nlohmann::json& config) {
  FamilyConfig family(config);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureMistral(const nlohmann::json& config) {
  FamilyConfig family(config);
  family.ReadWindow(4096);
  return family.Finish();
}

}  // namespace hostler
