#include "engine/model/config_reader.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "fmt/format.h"

namespace hostler {

const nlohmann::json* ConfigReader::Get(std::string_view key) const {
  if (!json_.is_object()) return nullptr;
  const auto found = json_.find(std::string(key));
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::IsNull(std::string_view key) const {
  if (!json_.is_object()) return false;
  const auto found = json_.find(std::string(key));
  return found != json_.end() && found->is_null();
}

void ConfigReader::Fail(std::string_view key, std::string_view problem) {
  if (status_.ok()) {
    status_ = absl::InvalidArgumentError(fmt::format("{}: \"{}\" {}", what_, key, problem));
  }
}

int ConfigReader::Int(std::string_view key, int64_t least, int64_t most) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) {
    Fail(key, "is missing");
    return static_cast<int>(least);
  }
  if (!value->is_number_integer()) {
    Fail(key, "must be an integer");
    return static_cast<int>(least);
  }
  const bool too_big = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t(most);
  const int64_t number = too_big ? most : value->get<int64_t>();
  if (too_big || number < least || number > most) {
    Fail(key, fmt::format("is {}, must be from {} to {}", value->dump(), least, most));
    return static_cast<int>(least);
  }
  return static_cast<int>(number);
}

int ConfigReader::Int(std::string_view key, int64_t least, int64_t most, int fallback) {
  return Has(key) ? Int(key, least, most) : fallback;
}

double ConfigReader::Double(std::string_view key, double fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) {
    Fail(key, "must be a number");
    return fallback;
  }
  return value->get<double>();
}

bool ConfigReader::Bool(std::string_view key, bool fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(key, "must be true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::String(std::string_view key, std::string fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Fail(key, "must be a string");
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<double> ConfigReader::Doubles(std::string_view key, size_t size) {
  const nlohmann::json* value = Get(key);
  std::vector<double> out;
  if (value != nullptr && value->is_array()) {
    for (const nlohmann::json& item : *value) {
      if (item.is_number()) out.push_back(item.get<double>());
    }
  }
  if (out.size() == size) return out;
  Fail(key, fmt::format("must be a list of {} numbers", size));
  return {};
}

std::vector<int64_t> ConfigReader::Ints(std::string_view key, std::vector<int64_t> fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  std::vector<int64_t> out;
  if (value->is_array()) {
    for (const nlohmann::json& item : *value) {
      if (item.is_number_integer()) out.push_back(item.get<int64_t>());
    }
  }
  if (!value->is_array() || out.size() != value->size()) Fail(key, "must be a list of integers");
  return out;
}

std::vector<std::string> ConfigReader::Strings(std::string_view key) {
  const nlohmann::json* value = Get(key);
  std::vector<std::string> out;
  if (value == nullptr) return out;
  if (value->is_array()) {
    for (const nlohmann::json& item : *value) {
      if (item.is_string()) out.push_back(item.get<std::string>());
    }
  }
  if (!value->is_array() || out.size() != value->size()) Fail(key, "must be a list of strings");
  return out;
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, uint64_t max_bytes) {
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(fmt::format("{}: {}", path, error.message()));
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes is too large", path, bytes));
  }
  std::ifstream file(path);
  nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(fmt::format("{}: not valid JSON", path));
  }
  return json;
}

}  // namespace hostler
