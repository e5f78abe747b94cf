#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <limits>

#include "engine/base/status.h"
#include "engine/weights/gguf.h"

namespace hostler {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename T>
T At(const std::string& scalars, size_t i) {
  T value;
  std::memcpy(&value, scalars.data() + i * sizeof(T), sizeof(T));
  return value;
}

// Calls f(T()) for the C++ type of a scalar that is a number or bool; returns
// f's result, or `otherwise` for a string or list.
template <typename F, typename R>
R ForScalar(GgufType type, R otherwise, F f) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return f(uint8_t());
    case GgufType::kI8:
      return f(int8_t());
    case GgufType::kU16:
      return f(uint16_t());
    case GgufType::kI16:
      return f(int16_t());
    case GgufType::kU32:
      return f(uint32_t());
    case GgufType::kI32:
      return f(int32_t());
    case GgufType::kU64:
      return f(uint64_t());
    case GgufType::kI64:
      return f(int64_t());
    case GgufType::kF32:
      return f(float());
    case GgufType::kF64:
      return f(double());
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return otherwise;
}

bool IsFloat(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }

// All of a value's scalars as To. False when they are not numbers, or one does
// not fit.
template <typename To>
bool Convert(const GgufMetadata::Value& value, std::vector<To>* to) {
  return ForScalar(value.type, false, [&](auto zero) {
    using From = decltype(zero);
    const size_t count = value.scalars.size() / sizeof(From);
    to->reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const From from = At<From>(value.scalars, i);
      if constexpr (std::is_same_v<From, uint64_t> && std::is_same_v<To, int64_t>) {
        if (from > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
      }
      to->push_back(static_cast<To>(from));
    }
    return true;
  });
}

std::string_view KindName(const GgufMetadata::Value& value) {
  if (value.type == GgufType::kArray) return "a list of lists";
  if (value.type == GgufType::kString) return value.list ? "a list of strings" : "a string";
  if (value.type == GgufType::kBool) return value.list ? "a list of bools" : "a bool";
  if (IsFloat(value.type)) return value.list ? "a list of floats" : "a float";
  return value.list ? "a list of integers" : "an integer";
}

}  // namespace

bool GgufMetadata::Add(std::string_view key, Value value) {
  return values_.emplace(key, std::move(value)).second;
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::Find(std::string_view key,
                                                              bool list) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::NotFoundError(fmt::format("{}: no metadata \"{}\"", path_, key));
  }
  if (it->second.list && !list) return WrongKind(key, it->second, "one value");
  return &it->second;
}

absl::Status GgufMetadata::WrongKind(std::string_view key, const Value& value,
                                     std::string_view wanted) const {
  return absl::InvalidArgumentError(fmt::format("{}: metadata \"{}\" is {} where {} belongs", path_,
                                                key, KindName(value), wanted));
}

absl::StatusOr<int64_t> GgufMetadata::GetInt(std::string_view key,
                                             std::optional<int64_t> fallback) const {
  if (fallback && !Has(key)) return *fallback;
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, false));
  std::vector<int64_t> ints;
  if (value->type == GgufType::kBool || IsFloat(value->type) || !Convert(*value, &ints)) {
    return WrongKind(key, *value, "a signed 64-bit integer");
  }
  return ints[0];
}

absl::StatusOr<double> GgufMetadata::GetFloat(std::string_view key,
                                              std::optional<double> fallback) const {
  if (fallback && !Has(key)) return *fallback;
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, false));
  std::vector<double> floats;
  if (value->type == GgufType::kBool || !Convert(*value, &floats)) {
    return WrongKind(key, *value, "a number");
  }
  return floats[0];
}

absl::StatusOr<bool> GgufMetadata::GetBool(std::string_view key,
                                           std::optional<bool> fallback) const {
  if (fallback && !Has(key)) return *fallback;
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, false));
  if (value->type != GgufType::kBool) return WrongKind(key, *value, "a bool");
  return value->scalars[0] != 0;
}

absl::StatusOr<std::string_view> GgufMetadata::GetString(
    std::string_view key, std::optional<std::string_view> fallback) const {
  if (fallback && !Has(key)) return *fallback;
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, false));
  if (value->type != GgufType::kString) return WrongKind(key, *value, "a string");
  return std::string_view(value->strings[0]);
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::GetInts(std::string_view key) const {
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, true));
  std::vector<int64_t> ints;
  if (IsFloat(value->type) || !Convert(*value, &ints)) {
    return WrongKind(key, *value, "a list of signed 64-bit integers");
  }
  return ints;
}

absl::StatusOr<std::vector<float>> GgufMetadata::GetFloats(std::string_view key) const {
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, true));
  std::vector<float> floats;
  if (value->type == GgufType::kBool || !Convert(*value, &floats)) {
    return WrongKind(key, *value, "a list of numbers");
  }
  return floats;
}

absl::StatusOr<std::span<const std::string>> GgufMetadata::GetStrings(std::string_view key) const {
  HOSTLER_ASSIGN_OR_RETURN(const Value* value, Find(key, true));
  if (value->type != GgufType::kString) return WrongKind(key, *value, "a list of strings");
  return std::span<const std::string>(value->strings);
}

}  // namespace hostler
