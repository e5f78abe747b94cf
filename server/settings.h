// Settings: the one list that YAML keys, flags, --help and the documentation
// are made from.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine/engine.h"

namespace hostler {

// One setting, bound to the variable that holds it, which must outlive it.
struct Setting {
  std::string key;     // "expert_memory" in YAML, --expert-memory as a flag
  std::string value;   // what the value is, for --help: "SIZE"; "" for a switch
  std::string help;    // one line
  std::string preset;  // the default, as text; "" when `help` says it
  // Errors: InvalidArgument; the message does not repeat the key.
  std::function<absl::Status(const std::string& text)> set;

  bool is_switch() const { return value.empty(); }
};

// "--expert-memory" for "expert_memory".
std::string FlagName(std::string_view key);

// How one model is loaded.
std::vector<Setting> ModelSettings(EngineOptions* options);
// How many requests an engine takes.
std::vector<Setting> SchedulingSettings(EngineOptions* options);

// Makers of `set` functions. Numbers outside [low, high] are refused.
std::function<absl::Status(const std::string&)> SetInt(int* to, int low, int high);
std::function<absl::Status(const std::string&)> SetNumber(double* to, double low, double high);
std::function<absl::Status(const std::string&)> SetBytes(uint64_t* to);
std::function<absl::Status(const std::string&)> SetBool(bool* to);
std::function<absl::Status(const std::string&)> SetText(std::string* to);
// Only the listed words.
std::function<absl::Status(const std::string&)> SetChoice(std::string* to,
                                                          std::vector<std::string> words);

}  // namespace hostler
