// The header of a safetensors file, and the index of a sharded model.
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto tensors = hostler::ParseSafetensorsHeader(bytes, "fuzz.safetensors");
  if (tensors.ok()) {
    for (const hostler::TensorInfo& tensor : *tensors) {
      if (tensor.offset > size || tensor.bytes > size - tensor.offset) __builtin_trap();
    }
  }
  (void)hostler::ParseSafetensorsIndex(bytes, "index.json");
  return 0;
}
