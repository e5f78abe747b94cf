// Writes GGUF files for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "engine/weights/gguf.h"

namespace hostler {

// The bytes of a value, as GGUF stores it.
template <typename T>
std::string GgufBytes(const T& value) {
  if constexpr (std::is_convertible_v<T, std::string_view>) {
    const std::string_view text(value);
    return GgufBytes(uint64_t{text.size()}) + std::string(text);
  } else {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
}

// Collects keys and tensors; File() gives the file. Nothing is checked, so that
// tests can lie: counts, alignment and every entry's bytes are public.
class GgufWriter {
 public:
  // A value of a type, already as bytes.
  GgufWriter& AddRaw(std::string_view key, GgufType type, std::string_view bytes) {
    entries += GgufBytes(key) + GgufBytes(static_cast<uint32_t>(type)) + std::string(bytes);
    ++keys;
    return *this;
  }
  template <typename T>
  GgufWriter& Add(std::string_view key, GgufType type, const T& value) {
    return AddRaw(key, type, GgufBytes(value));
  }
  template <typename T>
  GgufWriter& AddList(std::string_view key, GgufType element, const std::vector<T>& values) {
    std::string bytes =
        GgufBytes(static_cast<uint32_t>(element)) + GgufBytes(uint64_t{values.size()});
    for (const T& value : values) bytes += GgufBytes(value);
    return AddRaw(key, GgufType::kArray, bytes);
  }

  // A tensor's entry as given; dims innermost first.
  GgufWriter& AddTensorEntry(std::string_view name, const std::vector<uint64_t>& dims,
                             uint32_t type, uint64_t offset) {
    tensor_entries += GgufBytes(name) + GgufBytes(static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims) tensor_entries += GgufBytes(dim);
    tensor_entries += GgufBytes(type) + GgufBytes(offset);
    ++tensors;
    return *this;
  }
  // A tensor with its bytes, after those before it.
  GgufWriter& AddTensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                        std::string_view bytes) {
    Pad(&data);
    AddTensorEntry(name, dims, type, data.size());
    data += bytes;
    return *this;
  }

  std::string File() const {
    std::string file = magic + GgufBytes(version) + GgufBytes(tensors) + GgufBytes(keys);
    file += entries + tensor_entries;
    if (!data.empty()) Pad(&file);
    return file + data;
  }

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensors = 0;
  uint64_t keys = 0;
  uint64_t alignment = 32;
  std::string entries;
  std::string tensor_entries;
  std::string data;

 private:
  void Pad(std::string* bytes) const {
    bytes->resize((bytes->size() + alignment - 1) / alignment * alignment);
  }
};

}  // namespace hostler
