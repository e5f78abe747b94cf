#include "server/openai/fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

std::string MustBe(std::string_view wanted, const Json& value) {
  return fmt::format("must be {}, not {}", wanted, JsonTypeName(value));
}

std::string Describe(const NumberRange& range) {
  if (std::isinf(range.high)) {
    return fmt::format("must be {} {}", range.low_excluded ? "greater than" : "at least",
                       range.low);
  }
  if (range.low_excluded) {
    return fmt::format("must be greater than {} and at most {}", range.low, range.high);
  }
  return fmt::format("must be between {} and {}", range.low, range.high);
}

}  // namespace

std::string_view JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::object:
      return "an object";
    default:
      return "a number";
  }
}

absl::StatusOr<int64_t> ToInt(const Json& value, int64_t low, int64_t high) {
  // Beyond these a double is no exact count.
  constexpr double kExact = 9007199254740992.0;
  if (!value.is_number()) return absl::InvalidArgumentError(MustBe("an integer", value));
  const auto out_of_range = [low, high] {
    return absl::InvalidArgumentError(fmt::format("must be between {} and {}", low, high));
  };
  int64_t result = 0;
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number != std::floor(number)) {
      return absl::InvalidArgumentError(fmt::format("must be an integer, not {}", number));
    }
    if (!(std::abs(number) <= kExact)) return out_of_range();
    result = int64_t(number);
  } else if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > uint64_t(std::numeric_limits<int64_t>::max())) {
      return out_of_range();
    }
    result = int64_t(number);
  } else {
    result = value.get<int64_t>();
  }
  if (result < low || result > high) return out_of_range();
  return result;
}

absl::StatusOr<std::vector<int32_t>> ToTokens(const Json& array, std::string_view path) {
  std::vector<int32_t> tokens;
  tokens.reserve(array.size());
  for (const Json& item : array) {
    absl::StatusOr<int64_t> id = ToInt(item, 0, std::numeric_limits<int32_t>::max());
    if (!id.ok()) {
      return FieldError(fmt::format("{}[{}]", path, tokens.size()),
                        std::string(id.status().message()));
    }
    tokens.push_back(int32_t(*id));
  }
  return tokens;
}

FieldReader::FieldReader(const Json& object, std::string path)
    : object_(object), path_(std::move(path)) {}

std::string FieldReader::Path(std::string_view name) const {
  if (path_.empty()) return std::string(name);
  return fmt::format("{}.{}", path_, name);
}

void FieldReader::Fail(std::string_view name, std::string_view message) {
  if (status_.ok()) status_ = FieldError(Path(name), message);
}

void FieldReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const Json* FieldReader::Find(std::string_view name) const {
  if (!status_.ok()) return nullptr;
  const Json* value = FindKey(object_, name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void FieldReader::Read(std::string_view name, bool* to) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return Fail(name, MustBe("a boolean", *value));
  *to = value->get<bool>();
}

void FieldReader::Read(std::string_view name, std::string* to) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(name, MustBe("a string", *value));
  *to = value->get_ref<const std::string&>();
}

void FieldReader::ReadInt(std::string_view name, int64_t low, int64_t high,
                          std::optional<int64_t>* to) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  absl::StatusOr<int64_t> number = ToInt(*value, low, high);
  if (!number.ok()) return Fail(name, std::string(number.status().message()));
  *to = *number;
}

void FieldReader::ReadInt(std::string_view name, int64_t low, int64_t high,
                          std::optional<int>* to) {
  std::optional<int64_t> wide;
  ReadInt(name, low, high, &wide);
  if (wide.has_value()) *to = int(*wide);
}

void FieldReader::ReadInt(std::string_view name, int64_t low, int64_t high, int* to) {
  std::optional<int64_t> wide;
  ReadInt(name, low, high, &wide);
  if (wide.has_value()) *to = int(*wide);
}

void FieldReader::ReadNumber(std::string_view name, const NumberRange& range,
                             std::optional<double>* to) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return Fail(name, MustBe("a number", *value));
  const double number = value->get<double>();
  const bool above = range.low_excluded ? number > range.low : number >= range.low;
  if (!above || !(number <= range.high)) return Fail(name, Describe(range));
  *to = number;
}

void FieldReader::ReadNumber(std::string_view name, const NumberRange& range, double* to) {
  std::optional<double> number;
  ReadNumber(name, range, &number);
  if (number.has_value()) *to = *number;
}

void FieldReader::ReadTokens(std::string_view name, size_t max_size, std::vector<int32_t>* to) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_array()) return Fail(name, MustBe("an array of token ids", *value));
  if (value->size() > max_size) {
    return Fail(name, fmt::format("must have at most {} entries", max_size));
  }
  absl::StatusOr<std::vector<int32_t>> tokens = ToTokens(*value, Path(name));
  if (!tokens.ok()) return Fail(tokens.status());
  *to = *std::move(tokens);
}

}  // namespace hostler
