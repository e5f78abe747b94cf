#include "engine/text/json_fields.h"

#include <filesystem>
#include <fstream>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;

constexpr uintmax_t kMaxFileBytes = uintmax_t{512} << 20;
// Tables are as long as the largest id; no vocabulary has a tenth of that.
constexpr int64_t kMaxTokenId = (1 << 22) - 1;

absl::Status WrongType(std::string_view where, std::string_view field, std::string_view wanted,
                       const json& value) {
  return absl::InvalidArgumentError(
      fmt::format("{}: '{}' must be {}, not {}", where, field, wanted, value.type_name()));
}

}  // namespace

const json& FieldOrNull(const json& object, std::string_view field) {
  static const json null;
  if (!object.is_object()) return null;
  const auto it = object.find(field);
  return it == object.end() ? null : *it;
}

absl::StatusOr<std::string> StringField(const json& object, std::string_view field,
                                        std::string_view where) {
  const json& value = FieldOrNull(object, field);
  if (!value.is_string()) return WrongType(where, field, "a string", value);
  return value.get<std::string>();
}

absl::StatusOr<const json*> ArrayField(const json& object, std::string_view field,
                                       std::string_view where) {
  const json& value = FieldOrNull(object, field);
  if (!value.is_array()) return WrongType(where, field, "an array", value);
  return &value;
}

absl::StatusOr<std::string> StringField(const json& object, std::string_view field,
                                        std::string_view where, std::string_view otherwise) {
  if (FieldOrNull(object, field).is_null()) return std::string(otherwise);
  return StringField(object, field, where);
}

absl::StatusOr<bool> BoolField(const json& object, std::string_view field, std::string_view where,
                               bool otherwise) {
  const json& value = FieldOrNull(object, field);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return WrongType(where, field, "true or false", value);
  return value.get<bool>();
}

absl::StatusOr<int32_t> TokenId(const json& value, std::string_view where) {
  if (!value.is_number_integer()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: id must be an integer, not {}", where, value.type_name()));
  }
  // Numbers above int64's range are unsigned in nlohmann's reading.
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMaxTokenId);
  const int64_t id = too_large ? kMaxTokenId + 1 : value.get<int64_t>();
  if (id < 0 || id > kMaxTokenId) {
    return absl::InvalidArgumentError(
        fmt::format("{}: id {} is outside 0..{}", where, value.dump(), kMaxTokenId));
  }
  return static_cast<int32_t>(id);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) return absl::NotFoundError(fmt::format("cannot open {}", path));
  if (size > kMaxFileBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes are too many", path, size));
  }
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

absl::StatusOr<json> ReadJsonFile(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(fmt::format("{} is not valid JSON", path));
  }
  return value;
}

}  // namespace hostler
