#include "server/yaml_map.h"

#include <algorithm>
#include <set>

#include "fmt/format.h"

namespace hostler {
namespace {

absl::Status ErrorAt(const std::string& file, const YAML::Mark& mark, const std::string& message) {
  return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file, mark.line + 1, message));
}

}  // namespace

YamlValue::YamlValue(YAML::Node node, std::string file, std::string key)
    : node_(std::move(node)), file_(std::move(file)), key_(std::move(key)) {}

absl::StatusOr<std::string> YamlValue::AsText() const {
  if (!node_.IsScalar()) return Error("must be a plain value");
  return node_.Scalar();
}

absl::StatusOr<YamlMap> YamlValue::AsMap() const {
  if (!node_.IsMap()) return Error("must have keys below it");
  return YamlMap(node_, file_);
}

absl::StatusOr<std::vector<YamlValue>> YamlValue::AsList() const {
  if (!node_.IsSequence()) return Error("must be a list");
  std::vector<YamlValue> items;
  for (const YAML::Node& item : node_) {
    items.emplace_back(item, file_, fmt::format("{}[{}]", key_, items.size()));
  }
  return items;
}

absl::Status YamlValue::Error(const std::string& message) const {
  return ErrorAt(file_, node_.Mark(), fmt::format("{}: {}", key_, message));
}

absl::StatusOr<YamlMap> YamlMap::Parse(const std::string& yaml, const std::string& file) {
  YAML::Node node;
  try {
    node = YAML::Load(yaml);
  } catch (const YAML::Exception& error) {
    return ErrorAt(file, error.mark, error.msg);
  }
  if (node.IsNull()) node = YAML::Node(YAML::NodeType::Map);
  if (!node.IsMap()) return ErrorAt(file, node.Mark(), "must be keys and values");
  return YamlMap(node, file);
}

YamlMap::YamlMap(YAML::Node node, std::string file)
    : node_(std::move(node)), file_(std::move(file)) {}

absl::Status YamlMap::ReadSettings(
    const std::vector<Setting>& settings,
    const std::vector<std::pair<std::string, YamlReader>>& readers) const {
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) return ErrorAt(file_, entry.first.Mark(), "a key must be plain");
    const std::string key = entry.first.Scalar();
    const auto has_key = [&key](const auto& setting) { return setting.key == key; };
    const auto is_first = [&key](const auto& reader) { return reader.first == key; };
    const auto setting = std::find_if(settings.begin(), settings.end(), has_key);
    const auto reader = std::find_if(readers.begin(), readers.end(), is_first);
    if (setting == settings.end() && reader == readers.end()) {
      return ErrorAt(file_, entry.first.Mark(), fmt::format("unknown key \"{}\"", key));
    }
    if (!seen.insert(key).second) {
      return ErrorAt(file_, entry.first.Mark(), fmt::format("key \"{}\" stands twice", key));
    }
    const YamlValue value(entry.second, file_, key);
    if (reader != readers.end()) {
      HOSTLER_RETURN_IF_ERROR(reader->second(value));
      continue;
    }
    HOSTLER_ASSIGN_OR_RETURN(const std::string text, value.AsText());
    const absl::Status status = setting->set(text);
    if (!status.ok()) return value.Error(std::string(status.message()));
  }
  return absl::OkStatus();
}

absl::Status YamlMap::Error(const std::string& message) const {
  return ErrorAt(file_, node_.Mark(), message);
}

}  // namespace hostler
