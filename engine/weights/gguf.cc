#include "engine/weights/gguf.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <unordered_set>

#include "engine/base/status.h"

namespace hostler {
namespace {

constexpr std::string_view kSuffix = ".gguf";
constexpr size_t kDigits = 5;

// The number at text[at, at + 5), or 0.
int FiveDigits(std::string_view text, size_t at) {
  int number = 0;
  const char* begin = text.data() + at;
  const auto parsed = std::from_chars(begin, begin + kDigits, number);
  return parsed.ptr == begin + kDigits && *begin != '-' ? number : 0;
}

absl::Status Mismatch(const std::string& path, std::string_view why) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", path, why));
}

// Checks that a part says of itself what its name says.
absl::Status CheckPart(const GgufMetadata& metadata, const std::string& path,
                       const GgufPartName& name, int number) {
  HOSTLER_ASSIGN_OR_RETURN(const int64_t count, metadata.GetInt("split.count"));
  HOSTLER_ASSIGN_OR_RETURN(const int64_t index, metadata.GetInt("split.no"));
  if (count != name.count || index != number - 1) {
    return Mismatch(path, fmt::format("its metadata calls it part {} of {}, its name part {} of {}",
                                      index + 1, count, number, name.count));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<GgufPartName> GgufPartName::Parse(std::string_view path) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kSuffix.size();
  if (path.size() <= kTail || !path.ends_with(kSuffix)) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail);
  GgufPartName name;
  name.prefix = path.substr(0, path.size() - kTail);
  name.number = FiveDigits(tail, 1);
  name.count = FiveDigits(tail, 1 + kDigits + kOf.size());
  const bool valid = tail[0] == '-' && tail.substr(1 + kDigits, kOf.size()) == kOf &&
                     name.number >= 1 && name.number <= name.count;
  return valid ? std::optional(name) : std::nullopt;
}

std::string GgufPartName::Path(int part) const {
  return fmt::format("{}-{:05}-of-{:05}{}", prefix, part, count, kSuffix);
}

absl::StatusOr<GgufHeader> GgufSource::Open(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  absl::StatusOr<GgufHeader> header = ParseGguf(file->bytes(), path);
  // A header that could not be read looks like a bad one.
  HOSTLER_RETURN_IF_ERROR(file->Health());
  if (!header.ok()) return header;
  const int index = AddFile(std::move(file));
  for (TensorInfo& tensor : header->tensors) tensor.file = index;
  return header;
}

absl::Status GgufSource::OpenParts(const std::string& path, GgufHeader first) {
  const std::optional<GgufPartName> name = GgufPartName::Parse(path);
  if (!name) {
    return Mismatch(path,
                    "a part of a split model whose name does not end like "
                    "-00001-of-00002.gguf");
  }
  HOSTLER_RETURN_IF_ERROR(CheckPart(first.metadata, path, *name, 1));
  std::vector<TensorInfo> all = std::move(first.tensors);
  std::unordered_set<std::string> names;
  for (const TensorInfo& tensor : all) names.insert(tensor.name);
  for (int number = 2; number <= name->count; ++number) {
    const std::string part = name->Path(number);
    HOSTLER_ASSIGN_OR_RETURN(GgufHeader header, Open(part));
    HOSTLER_RETURN_IF_ERROR(CheckPart(header.metadata, part, *name, number));
    for (TensorInfo& tensor : header.tensors) {
      if (!names.insert(tensor.name).second) {
        return Mismatch(part,
                        fmt::format("tensor {}: is in another part too", Quoted(tensor.name)));
      }
      all.push_back(std::move(tensor));
    }
  }
  const int64_t found = static_cast<int64_t>(all.size());
  HOSTLER_ASSIGN_OR_RETURN(const int64_t total,
                           first.metadata.GetInt("split.tensors.count", found));
  if (total != found) {
    return Mismatch(
        path, fmt::format("its parts have {} tensors together, not {} as it says", found, total));
  }
  metadata_ = std::move(first.metadata);
  SetTensors(std::move(all));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<GgufSource>> OpenGguf(const std::string& path) {
  auto source = std::make_unique<GgufSource>();
  const std::optional<GgufPartName> name = GgufPartName::Parse(path);
  // Part 1 has the metadata.
  const std::string first_path = name && name->number > 1 ? name->Path(1) : path;
  HOSTLER_ASSIGN_OR_RETURN(GgufHeader header, source->Open(first_path));
  HOSTLER_ASSIGN_OR_RETURN(const int64_t parts, header.metadata.GetInt("split.count", 1));
  if (parts > 1) {
    HOSTLER_RETURN_IF_ERROR(source->OpenParts(first_path, std::move(header)));
  } else if (first_path != path) {
    return Mismatch(first_path, "has no split.count: it is no part of a split model");
  } else {
    source->metadata_ = std::move(header.metadata);
    source->SetTensors(std::move(header.tensors));
  }
  return source;
}

absl::StatusOr<std::string> CopyGgufMetadata(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const absl::StatusOr<GgufHeader> header = ParseGguf(file->bytes(), path);
  HOSTLER_RETURN_IF_ERROR(file->Health());
  HOSTLER_RETURN_IF_ERROR(header.status());
  std::string copy(reinterpret_cast<const char*>(file->bytes().data()), header->metadata_end);
  HOSTLER_RETURN_IF_ERROR(file->Health());
  // After magic and version.
  constexpr size_t kTensorCountAt = 8;
  std::memset(copy.data() + kTensorCountAt, 0, sizeof(uint64_t));
  return copy;
}

}  // namespace hostler
