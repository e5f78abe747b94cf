// Reads a model's JSON configuration without trusting it.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

// Getters return a value in range; a missing key without a default, a wrong
// type or a value out of range is remembered (the first one) in status(), so
// that a family reads all its keys and checks once. A null counts as missing.
class ConfigReader {
 public:
  // `json` must outlive the reader; `what` names the file in errors.
  ConfigReader(const nlohmann::json& json, std::string what)
      : json_(json), what_(std::move(what)) {}

  int Int(std::string_view key, int64_t least, int64_t most);
  int Int(std::string_view key, int64_t least, int64_t most, int fallback);
  double Double(std::string_view key, double fallback);
  bool Bool(std::string_view key, bool fallback);
  std::string String(std::string_view key, std::string fallback);
  // A list of exactly `size` numbers; empty, and a problem noted, otherwise.
  std::vector<double> Doubles(std::string_view key, size_t size);
  // A list of integers; `fallback` when the key is missing.
  std::vector<int64_t> Ints(std::string_view key, std::vector<int64_t> fallback);
  // A list of strings; empty when the key is missing.
  std::vector<std::string> Strings(std::string_view key);
  bool Has(std::string_view key) const { return Get(key) != nullptr; }
  // The key is there and says null: where that differs from its default.
  bool IsNull(std::string_view key) const;
  const nlohmann::json* Get(std::string_view key) const;

  void Fail(std::string_view key, std::string_view problem);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& json_;
  std::string what_;
  absl::Status status_;
};

// Parses a JSON file of at most `max_bytes`. Errors: NotFound, InvalidArgument.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path,
                                            uint64_t max_bytes = uint64_t{64} << 20);

}  // namespace hostler
