// A config.json of any architecture → DecoderConfig.
#include <cstddef>
#include <cstdint>

#include "engine/model/architectures.h"
#include "engine/model/decoder.h"
#include "engine/model/model_info.h"
#include "nlohmann/json.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const nlohmann::json config =
      nlohmann::json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded()) return 0;
  const hostler::Architecture* architecture = hostler::FindArchitecture(config);
  if (architecture == nullptr) return 0;
  const auto decoder = architecture->configure(config);
  if (!decoder.ok()) return 0;
  hostler::ModelInfo info;
  hostler::DescribeDecoder(*decoder, &info);
  return 0;
}
