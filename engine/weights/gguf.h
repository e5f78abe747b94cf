// The GGUF file format, versions 2 and 3, little-endian: metadata by key, then
// each tensor's name, shape, type and offset, then the tensors' bytes.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Names of keys and tensors are the file's own. Shapes are turned round: GGUF
// lists the innermost dimension first, TensorInfo the outermost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/mapped_source.h"

namespace hostler {

// A file with more than this before its tensors' bytes is refused.
inline constexpr size_t kMaxGgufHeaderBytes = 100'000'000;
inline constexpr uint64_t kMaxGgufKeys = 100'000;
inline constexpr uint64_t kMaxGgufTensors = 1'000'000;

// Types of metadata values, by their numbers in the file.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// A file's metadata, copied out of it. Immutable once read; every method may be
// called from any thread.
//
// Errors of the getters, which name file and key: NotFound when there is no
// such key and no fallback; InvalidArgument when its value is of another kind,
// or is a list where one value is wanted. One value counts as a list of one.
class GgufMetadata {
 public:
  // One value, or the elements of a list.
  struct Value {
    GgufType type = GgufType::kU8;  // kArray: of lists, which no getter gives
    bool list = false;
    std::string scalars;               // little-endian, one after another
    std::vector<std::string> strings;  // kString
  };

  GgufMetadata() = default;
  explicit GgufMetadata(std::string path) : path_(std::move(path)) {}
  // False when the key is there already.
  bool Add(std::string_view key, Value value);

  bool Has(std::string_view key) const { return values_.find(key) != values_.end(); }

  // An integer of any width.
  absl::StatusOr<int64_t> GetInt(std::string_view key,
                                 std::optional<int64_t> fallback = std::nullopt) const;
  // A float of either width, or an integer.
  absl::StatusOr<double> GetFloat(std::string_view key,
                                  std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> GetBool(std::string_view key,
                               std::optional<bool> fallback = std::nullopt) const;
  // The bytes as they are: not necessarily UTF-8. Valid as long as *this, or
  // as the fallback.
  absl::StatusOr<std::string_view> GetString(
      std::string_view key, std::optional<std::string_view> fallback = std::nullopt) const;

  // Integers, or bools as 0 and 1.
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;
  // Valid as long as *this.
  absl::StatusOr<std::span<const std::string>> GetStrings(std::string_view key) const;

 private:
  absl::StatusOr<const Value*> Find(std::string_view key, bool list) const;
  absl::Status WrongKind(std::string_view key, const Value& value, std::string_view wanted) const;

  std::string path_;
  std::map<std::string, Value, std::less<>> values_;
};

struct GgufHeader {
  GgufMetadata metadata;
  // In the order of their offsets; TensorInfo::file is 0.
  std::vector<TensorInfo> tensors;
  size_t metadata_end = 0;  // the byte of the file after the last key
};

// Reads the header of the file whose contents are `file`: a pure function over
// hostile bytes. `path` only appears in errors, which name it and the key or
// tensor at fault. Errors: InvalidArgument; Unimplemented for a version or
// tensor type we do not read.
absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, const std::string& path);

// A GGUF model of one or several files.
class GgufSource : public MappedSource {
 public:
  std::string_view format() const override { return "gguf"; }
  // The first file's.
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  friend absl::StatusOr<std::unique_ptr<GgufSource>> OpenGguf(const std::string& path);

  absl::StatusOr<GgufHeader> Open(const std::string& path);
  absl::Status OpenParts(const std::string& path, GgufHeader first);

  GgufMetadata metadata_;
};

// Opens a GGUF file. Of a model split into "NAME-00001-of-00003.gguf" and so
// on, `path` is any part; the others lie beside it. Errors: those of ParseGguf
// and MappedFile::Open; InvalidArgument when the parts do not belong together.
absl::StatusOr<std::unique_ptr<GgufSource>> OpenGguf(const std::string& path);

// The bytes of a GGUF file with the metadata of the one at `path` and no
// tensors. Errors: as ParseGguf and MappedFile::Open.
absl::StatusOr<std::string> CopyGgufMetadata(const std::string& path);

// "NAME-00002-of-00003.gguf" as {"NAME", 2, 3}; nullopt for other names.
struct GgufPartName {
  std::string prefix;  // with its directory
  int number = 0;      // from 1
  int count = 0;

  static std::optional<GgufPartName> Parse(std::string_view path);
  std::string Path(int number) const;
};

}  // namespace hostler
