#include "engine/weights/packed_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "engine/compute/interleave.h"
#include "engine/weights/mapped_source.h"

namespace hostler {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "hostler-packed";
constexpr int kMostDepth = 64;
constexpr size_t kMostFiles = 64;
constexpr size_t kMostTensors = 1'000'000;
constexpr size_t kMostLayers = 4096;
constexpr size_t kMostDimensions = 16;
constexpr uint64_t kMostExperts = 65536;  // of a layer
constexpr uint64_t kMostWidth = 1 << 24;

// Copying and printing JSON takes stack for each level.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == '"') {
        in_string = false;
      }
      continue;
    }
    if (text[i] == '"') in_string = true;
    if (text[i] == '{' || text[i] == '[') ++depth;
    if (text[i] == '}' || text[i] == ']') --depth;
    if (depth > kMostDepth) return true;
  }
  return false;
}

std::optional<DType> FindType(std::string_view name) {
  for (int i = 0; i < kDTypes; ++i) {
    if (GetDTypeInfo(static_cast<DType>(i)).name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

// `count` rows of `width` values; nullopt when they are not whole blocks or
// their bytes cannot be counted.
std::optional<uint64_t> BytesOf(DType type, uint64_t count, uint64_t width) {
  const DTypeInfo& info = GetDTypeInfo(type);
  uint64_t bytes = 0;
  if (width % info.block_elements != 0 ||
      __builtin_mul_overflow(width / info.block_elements, uint64_t(info.block_bytes), &bytes) ||
      __builtin_mul_overflow(bytes, count, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

// Reads the manifest; the first problem stays.
class Parser {
 public:
  explicit Parser(const std::string& path) : path_(path) {}

  absl::StatusOr<PackedManifest> Parse(json& root) {
    HOSTLER_RETURN_IF_ERROR(ReadVersion(root));
    PackedManifest& m = manifest_;
    m.type = String(root, "type");
    static constexpr std::array<std::string_view, 4> kTypes = {"keep", "bf16", "q8", "q4"};
    if (std::find(kTypes.begin(), kTypes.end(), m.type) == kTypes.end()) {
      Fail(fmt::format("type {} is none that there is", Quoted(m.type)));
    }
    const json& source = Get(root, "source", json::value_t::object);
    m.source_format = String(source, "format");
    m.source_hash = String(source, "xxh3_128");
    for (const auto& [key, to] :
         {std::pair{"config", &m.config}, std::pair{"generation_config", &m.generation}}) {
      if (Get(root, key, json::value_t::object).is_object()) *to = std::move(root[key]);
    }
    ReadFiles(Get(root, "files", json::value_t::array));
    ReadTensors(Get(root, "tensors", json::value_t::array));
    ReadLayers(Get(root, "expert_layers", json::value_t::array));
    HOSTLER_RETURN_IF_ERROR(status_);
    return std::move(manifest_);
  }

 private:
  void Fail(std::string_view why, absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    if (status_.ok()) status_ = absl::Status(code, fmt::format("{}: {}{}", path_, where_, why));
  }

  const json& Get(const json& object, const char* key, json::value_t type) {
    static const json kNothing;
    const auto found = object.is_object() ? object.find(key) : object.end();
    if (!object.is_object() || found == object.end()) {
      Fail(fmt::format("\"{}\" is missing", key));
      return kNothing;
    }
    if (found->type() != type) {
      Fail(type == json::value_t::number_unsigned
               ? fmt::format("\"{}\" must be a whole number", key)
               : fmt::format("\"{}\" must be of type {}", key, json(type).type_name()));
      return kNothing;
    }
    return *found;
  }
  std::string String(const json& object, const char* key) {
    const json& value = Get(object, key, json::value_t::string);
    return value.is_string() ? value.get<std::string>() : "";
  }
  uint64_t Number(const json& object, const char* key, uint64_t least, uint64_t most) {
    const json& value = Get(object, key, json::value_t::number_unsigned);
    if (!value.is_number_unsigned()) return least;
    const auto number = value.get<uint64_t>();
    if (number >= least && number <= most) return number;
    Fail(fmt::format("\"{}\" is {}, must be from {} to {}", key, number, least, most));
    return least;
  }
  DType Type(const json& object, const char* key) {
    const std::string name = String(object, key);
    const std::optional<DType> type = FindType(name);
    if (!type) Fail(fmt::format("\"{}\": there is no type {}", key, Quoted(name)));
    return type.value_or(DType::kF32);
  }
  uint64_t Sum(const json& object, const char* key) {
    const std::string text = String(object, key);
    const std::optional<uint64_t> sum = ParseChecksum(text);
    if (!sum) Fail(fmt::format("\"{}\": {} is no checksum", key, Quoted(text)));
    return sum.value_or(0);
  }

  absl::Status ReadVersion(const json& root) {
    if (!root.is_object() || !root.contains("format") || root["format"] != kFormat) {
      Fail(fmt::format("not a packed store's: \"format\" is not \"{}\"", kFormat));
      return status_;
    }
    const uint64_t version = Number(root, "version", 0, UINT64_MAX);
    const uint64_t layout = Number(root, "kernel_layout", 0, UINT64_MAX);
    if (version != kPackedVersion || layout < kPackedRows || layout > kPackedInterleaved) {
      Fail(fmt::format("version {} with kernel layout {}; this hostler reads version {} with "
                       "kernel layouts {} and {}. Pack the model again",
                       version, layout, kPackedVersion, kPackedRows, kPackedInterleaved),
           absl::StatusCode::kUnimplemented);
    }
    manifest_.kernel_layout = static_cast<int>(layout);
    return status_;
  }

  void ReadFiles(const json& files) {
    if (files.size() > kMostFiles) return Fail(fmt::format("{} files are too many", files.size()));
    std::unordered_set<std::string> names;
    for (const json& entry : files) {
      PackedFile file;
      where_.clear();
      file.name = String(entry, "name");
      where_ = fmt::format("file {}: ", Quoted(file.name));
      if (file.name.empty() || file.name == "." || file.name == ".." ||
          file.name.find('/') != std::string::npos || file.name.find('\0') != std::string::npos) {
        Fail("not the name of a file in the store");
      }
      if (!names.insert(file.name).second) Fail("occurs twice");
      file.bytes = Number(entry, "bytes", 0, INT64_MAX);
      if (file.name != kPackedDense && file.name != kPackedExperts) {
        file.checksum = Sum(entry, "xxh3");
      }
      manifest_.files.push_back(std::move(file));
      if (!status_.ok()) return;
    }
    where_.clear();
    if (manifest_.FindFile(kPackedDense) == nullptr) {
      Fail(fmt::format("\"files\" has no {}", kPackedDense));
    }
  }

  uint64_t FileBytes(const char* name) {
    const PackedFile* file = manifest_.FindFile(name);
    return file == nullptr ? 0 : file->bytes;
  }

  // A range of a file, aligned and after those before it.
  bool Claim(const char* file, uint64_t alignment, uint64_t offset, uint64_t bytes,
             uint64_t* end_of_last) {
    const uint64_t size = FileBytes(file);
    if (offset % alignment != 0) {
      Fail(fmt::format("its offset {} is not a multiple of {}", offset, alignment));
    } else if (offset < *end_of_last) {
      Fail(fmt::format("begins at {}, within or before the one listed before it", offset));
    } else if (offset > size || bytes > size - offset) {
      Fail(fmt::format("its {} bytes at {} go past the end of {}, which has {}", bytes, offset,
                       file, size));
    } else {
      *end_of_last = offset + bytes;
    }
    return status_.ok();
  }

  void ReadTensors(const json& tensors) {
    if (tensors.size() > kMostTensors) {
      return Fail(fmt::format("{} tensors are too many", tensors.size()));
    }
    std::unordered_set<std::string> names;
    uint64_t end = 0;
    for (const json& entry : tensors) {
      where_.clear();
      TensorInfo tensor;
      tensor.name = String(entry, "name");
      where_ = fmt::format("tensor {}: ", Quoted(tensor.name));
      if (!names.insert(tensor.name).second) Fail("occurs twice");
      tensor.dtype = Type(entry, "type");
      tensor.offset = Number(entry, "offset", 0, INT64_MAX);
      tensor.bytes = Number(entry, "bytes", 0, INT64_MAX);
      ReadShape(Get(entry, "shape", json::value_t::array), &tensor);
      tensor.interleaved = manifest_.interleaved() && LiesInterleaved(tensor.dtype, tensor.shape);
      manifest_.tensor_checksums.push_back(Sum(entry, "xxh3"));
      if (!status_.ok() ||
          !Claim(kPackedDense, kPackedTensorAlignment, tensor.offset, tensor.bytes, &end)) {
        return;
      }
      manifest_.tensors.push_back(std::move(tensor));
    }
    where_.clear();
  }

  void ReadShape(const json& shape, TensorInfo* tensor) {
    if (shape.size() > kMostDimensions) return Fail("has too many dimensions");
    uint64_t rows = 1;
    for (const json& dim : shape) {
      if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t(INT64_MAX)) {
        return Fail("a dimension is not a size");
      }
      tensor->shape.push_back(dim.get<int64_t>());
    }
    for (size_t i = 0; i + 1 < tensor->shape.size(); ++i) {
      if (__builtin_mul_overflow(rows, uint64_t(tensor->shape[i]), &rows)) {
        return Fail("shape overflows");
      }
    }
    const uint64_t width = tensor->shape.empty() ? 1 : tensor->shape.back();
    const std::optional<uint64_t> bytes = BytesOf(tensor->dtype, rows, width);
    if (bytes != tensor->bytes) {
      Fail(fmt::format("{} bytes are not what {} of {} takes", tensor->bytes, tensor->ShapeString(),
                       GetDTypeInfo(tensor->dtype).name));
    }
  }

  void ReadLayers(const json& layers) {
    if (layers.size() > kMostLayers)
      return Fail(fmt::format("{} layers are too many", layers.size()));
    std::unordered_set<std::string> names;
    uint64_t end = 0, experts = 0;
    for (const json& entry : layers) {
      where_.clear();
      PackedLayer layer;
      layer.name = String(entry, "name");
      where_ = fmt::format("expert layer {}: ", Quoted(layer.name));
      if (!names.insert(layer.name).second) Fail("occurs twice");
      ReadLayer(entry, &layer);
      layer.first_checksum = std::exchange(experts, experts + layer.count);
      if (!status_.ok()) return;
      if (layer.stride > uint64_t(INT64_MAX) / layer.count) return Fail("its size overflows");
      if (!Claim(kPackedExperts, kPackedExpertAlignment, layer.offset, layer.stride * layer.count,
                 &end)) {
        return;
      }
      manifest_.layers.push_back(std::move(layer));
    }
    where_.clear();
    if (FileBytes(kPackedChecksums) != experts * sizeof(uint64_t)) {
      Fail(fmt::format("{} has {} bytes; {} experts have {}", kPackedChecksums,
                       FileBytes(kPackedChecksums), experts, experts * sizeof(uint64_t)));
    }
  }

  void ReadLayer(const json& entry, PackedLayer* layer) {
    layer->count = static_cast<int>(Number(entry, "count", 1, kMostExperts));
    layer->dim = static_cast<int64_t>(Number(entry, "dim", 1, kMostWidth));
    layer->ffn = static_cast<int64_t>(Number(entry, "ffn", 1, kMostWidth));
    layer->gate = Type(entry, "gate");
    layer->up = Type(entry, "up");
    layer->down = Type(entry, "down");
    layer->biases = Get(entry, "biases", json::value_t::boolean) == true;
    layer->bytes = Number(entry, "bytes", 1, INT64_MAX);
    layer->stride = Number(entry, "stride", 1, INT64_MAX);
    layer->offset = Number(entry, "offset", 0, INT64_MAX);
    if (!status_.ok()) return;
    for (const auto& [type, width] :
         {std::pair{layer->gate, layer->dim}, std::pair{layer->up, layer->dim},
          std::pair{layer->down, layer->ffn}}) {
      if (!IsWeightType(type) || type == DType::kF8E4M3) {
        return Fail(fmt::format("experts cannot be of type {}", GetDTypeInfo(type).name));
      }
      if (width % GetDTypeInfo(type).block_elements != 0) {
        return Fail(
            fmt::format("rows of {} are not whole blocks of {}", width, GetDTypeInfo(type).name));
      }
    }
    if (layer->bytes != layer->ContentBytes()) {
      return Fail(fmt::format("{} bytes are not what its types and sizes take, {}", layer->bytes,
                              layer->ContentBytes()));
    }
    if (layer->stride % kPackedExpertAlignment != 0 || layer->stride < layer->bytes) {
      Fail(fmt::format("its stride {} is not a multiple of {} with room for {} bytes",
                       layer->stride, kPackedExpertAlignment, layer->bytes));
    }
  }

  const std::string& path_;
  std::string where_;
  absl::Status status_;
  PackedManifest manifest_;
};

}  // namespace

uint64_t PackedLayer::ContentBytes() const {
  const uint64_t biases_bytes = biases ? sizeof(float) * (2 * ffn + dim) : 0;
  return ffn * (RowBytes(gate, dim) + RowBytes(up, dim)) + dim * RowBytes(down, ffn) + biases_bytes;
}

uint64_t PackedLayer::Parameters() const {
  return uint64_t(3) * dim * ffn + (biases ? 2 * ffn + dim : 0);
}

bool LiesInterleaved(DType type, const std::vector<int64_t>& shape) {
  return CanInterleave(type) && shape.size() == 2 && shape[0] >= kInterleavedRows;
}

const PackedFile* PackedManifest::FindFile(std::string_view name) const {
  const auto found = std::find_if(files.begin(), files.end(),
                                  [&](const PackedFile& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

std::string WritePackedManifest(const PackedManifest& manifest) {
  using nlohmann::ordered_json;
  ordered_json root = {
      {"format", kFormat},
      {"version", kPackedVersion},
      {"kernel_layout", manifest.kernel_layout},
      {"type", manifest.type},
      {"source", {{"format", manifest.source_format}, {"xxh3_128", manifest.source_hash}}},
      {"config", manifest.config},
      {"generation_config", manifest.generation}};
  const auto type = [](DType dtype) { return GetDTypeInfo(dtype).name; };
  ordered_json files = ordered_json::array(), tensors = files, layers = files;
  for (const PackedFile& file : manifest.files) {
    ordered_json& entry = files.emplace_back();
    entry = {{"name", file.name}, {"bytes", file.bytes}};
    if (file.checksum) entry["xxh3"] = ChecksumText(*file.checksum);
  }
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    const TensorInfo& tensor = manifest.tensors[i];
    tensors.push_back({{"name", tensor.name},
                       {"type", type(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"offset", tensor.offset},
                       {"bytes", tensor.bytes},
                       {"xxh3", ChecksumText(manifest.tensor_checksums[i])}});
  }
  for (const PackedLayer& layer : manifest.layers) {
    layers.push_back({{"name", layer.name},
                      {"count", layer.count},
                      {"dim", layer.dim},
                      {"ffn", layer.ffn},
                      {"gate", type(layer.gate)},
                      {"up", type(layer.up)},
                      {"down", type(layer.down)},
                      {"biases", layer.biases},
                      {"bytes", layer.bytes},
                      {"stride", layer.stride},
                      {"offset", layer.offset}});
  }
  root["files"] = std::move(files);
  root["tensors"] = std::move(tensors);
  root["expert_layers"] = std::move(layers);
  return root.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

absl::StatusOr<PackedManifest> ParsePackedManifest(std::string_view text, const std::string& path) {
  if (TooDeep(text)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: nested more than {} deep", path, kMostDepth));
  }
  json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) {
    return absl::InvalidArgumentError(fmt::format("{}: not valid JSON", path));
  }
  return Parser(path).Parse(root);
}

}  // namespace hostler
