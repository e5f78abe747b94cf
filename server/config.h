// What `hostler serve` is told: a YAML file, flags, or both.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine/engine.h"
#include "router/quality/embedding_kind.h"
#include "router/target.h"
#include "router/upstream/options.h"
#include "server/route_config.h"
#include "server/settings.h"

namespace hostler {

// One entry of `models`.
struct ModelConfig {
  std::string name;  // what clients call it; default: the directory's base name
  std::string path;
  std::optional<Price> price;  // unset: by the model's active parameters
  double watts = 0;            // that the machine takes while it works; 0: not counted
  // ModelSettings of its own, by key; they win over those for all models.
  std::map<std::string, std::string> settings;
};

struct ServeConfig {
  std::vector<ModelConfig> models;
  std::vector<UpstreamOptions> upstreams;
  // For every model; the memory sizes are all models' together.
  EngineOptions engine = [] {
    EngineOptions options;
    options.expert_popularity = "auto";
    options.expert_preload = true;
    return options;
  }();

  std::string host = "127.0.0.1";
  int port = 8000;       // HTTP; 0: a free one
  int grpc_port = 8001;  // 0: a free one; -1: no gRPC
  uint64_t max_body_bytes = 16 << 20;
  int drain_timeout_s = 30;
  std::string admin = "local";  // who may use /admin/: "on", "off", "local"

  std::string log_format = "text";
  std::string log_level = "info";

  std::string route_log;                       // a file; "": none
  std::string route_log_prompts = "hash";      // or "text"
  std::string route_state;                     // a file; "": none
  double energy_price = 0;                     // USD per kWh, for models with watts
  std::string encoder;                         // a directory; "": none
  int encoder_tokens = kDefaultEncoderTokens;  // of a prompt, at most
  double encoder_wait_ms = 5;                  // for other prompts

  // Unset, with several models: one named "auto".
  std::optional<std::vector<VirtualModelConfig>> virtual_models;
  // The longest prompt that auto gives to its cheapest model.
  int auto_max_prompt_tokens = 512;
};

// Every key with a plain value, bound to `config`.
std::vector<Setting> ServeSettings(ServeConfig* config);

// "PATH" or "NAME=PATH". Errors: InvalidArgument.
absl::StatusOr<ModelConfig> ParseModelFlag(const std::string& text);

// Reads YAML into `config`. `file` is its name in errors. Errors:
// InvalidArgument with file, line and key for what is not YAML, for unknown
// and repeated keys, and for bad values.
absl::Status ReadYaml(const std::string& yaml, const std::string& file, ServeConfig* config);

// Errors: InvalidArgument for what no single value shows: no model, a name
// used twice, a rule for a model that is not there, one port for two servers,
// an upstream without its key.
absl::Status Validate(const ServeConfig& config);

}  // namespace hostler
