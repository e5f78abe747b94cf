// Typed access to the fields of JSON that is not to be trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

// Components nested deeper than this are refused.
inline constexpr int kMaxComponentDepth = 16;
// … and sequences of more, all told: each costs time for all of a text.
inline constexpr size_t kMaxComponents = 64;

// `where` names the object in errors, which are InvalidArgument: the field is
// missing or has another type.
absl::StatusOr<std::string> StringField(const nlohmann::json& object, std::string_view field,
                                        std::string_view where);
absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& object,
                                                 std::string_view field, std::string_view where);

// The same with a default for a field that is missing or null.
absl::StatusOr<std::string> StringField(const nlohmann::json& object, std::string_view field,
                                        std::string_view where, std::string_view otherwise);
absl::StatusOr<bool> BoolField(const nlohmann::json& object, std::string_view field,
                               std::string_view where, bool otherwise);

// A token id: 0 <= id < 2^24. Errors: InvalidArgument.
absl::StatusOr<int32_t> TokenId(const nlohmann::json& value, std::string_view where);

// The field, or null where it is missing (or `object` is none).
const nlohmann::json& FieldOrNull(const nlohmann::json& object, std::string_view field);

// The file's content as JSON. Errors: NotFound; InvalidArgument.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

// Errors: NotFound; InvalidArgument when it is larger than 512 MiB.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace hostler
