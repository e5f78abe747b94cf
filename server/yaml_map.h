// YAML whose every error names file, line and key, and whose keys are all
// known.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/status.h"
#include "server/settings.h"
#include "yaml-cpp/yaml.h"

namespace hostler {

class YamlMap;

// What stands behind a key or in a list.
class YamlValue {
 public:
  YamlValue(YAML::Node node, std::string file, std::string key);

  // The plain value as text; YAML's types are not asked. Errors, here and
  // below: InvalidArgument.
  absl::StatusOr<std::string> AsText() const;
  absl::StatusOr<YamlMap> AsMap() const;
  absl::StatusOr<std::vector<YamlValue>> AsList() const;

  // InvalidArgument: "FILE:LINE: KEY: MESSAGE".
  absl::Status Error(const std::string& message) const;

 private:
  YAML::Node node_;
  std::string file_;
  std::string key_;
};

// Reads the value of one key.
using YamlReader = std::function<absl::Status(const YamlValue& value)>;

class YamlMap {
 public:
  // An empty text is an empty map.
  static absl::StatusOr<YamlMap> Parse(const std::string& yaml, const std::string& file);

  YamlMap(YAML::Node node, std::string file);

  // Gives every key's value to the setting or reader of that key. Errors: for
  // keys that have neither and for repeated ones.
  absl::Status ReadSettings(const std::vector<Setting>& settings,
                            const std::vector<std::pair<std::string, YamlReader>>& readers) const;

  // InvalidArgument: "FILE:LINE: MESSAGE".
  absl::Status Error(const std::string& message) const;

 private:
  YAML::Node node_;
  std::string file_;
};

// Reads a list of maps, each by `read(map, &element)`.
template <typename T, typename Read>
absl::Status ReadList(const YamlValue& value, Read read, std::vector<T>* to) {
  HOSTLER_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, value.AsList());
  for (const YamlValue& item : items) {
    HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, item.AsMap());
    HOSTLER_RETURN_IF_ERROR(read(map, &to->emplace_back()));
  }
  return absl::OkStatus();
}

}  // namespace hostler
