#include "server/config.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/upstream/upstream_target.h"
#include "server/upstream_config.h"
#include "server/yaml_map.h"

namespace hostler {
namespace {

std::function<absl::Status(const std::string&)> SetGrpcPort(int* to) {
  return [to](const std::string& text) -> absl::Status {
    if (text == "off" || text == "-1") {
      *to = -1;
      return absl::OkStatus();
    }
    if (!SetInt(to, 0, 65535)(text).ok()) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is neither a port from 0 to 65535 nor \"off\"", text));
    }
    return absl::OkStatus();
  };
}

std::string BaseName(const std::string& path) {
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  const std::string last = normal.filename().string();
  const std::string name = last.empty() ? normal.parent_path().filename().string() : last;
  if (name != "." && name != "..") return name;
  std::error_code error;
  return std::filesystem::canonical(path, error).filename().string();
}

absl::Status CompleteModel(ModelConfig* model) {
  if (model->path.empty()) return absl::InvalidArgumentError("a model needs a path");
  if (model->name.empty()) model->name = BaseName(model->path);
  if (model->name.empty()) {
    return absl::InvalidArgumentError(fmt::format("{} gives no name; name it", model->path));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const YamlMap& map, ModelConfig* model) {
  EngineOptions checked;
  std::vector<Setting> settings = ModelSettings(&checked);
  for (Setting& setting : settings) {
    setting.set = [model, key = setting.key, check = setting.set](const std::string& text) {
      model->settings[key] = text;
      return check(text);
    };
  }
  settings.push_back({"name", "NAME", "", "", SetText(&model->name)});
  settings.push_back({"path", "PATH", "", "", SetText(&model->path)});
  settings.push_back({"watts", "W", "", "", SetNumber(&model->watts, 0, 1e6)});
  HOSTLER_RETURN_IF_ERROR(
      map.ReadSettings(settings, {{"price", [model](const YamlValue& value) -> absl::Status {
                                     return ReadPrice(value, &model->price);
                                   }}}));
  const absl::Status complete = CompleteModel(model);
  return complete.ok() ? complete : map.Error(std::string(complete.message()));
}

// Adds their names to `targets`, and to `unpriced`.
absl::Status ValidateUpstreams(const std::vector<UpstreamOptions>& upstreams,
                               std::set<std::string>* targets, std::set<std::string>* unpriced) {
  for (const UpstreamOptions& upstream : upstreams) {
    if (!targets->insert(upstream.name).second) {
      return absl::InvalidArgumentError(
          fmt::format("upstream \"{}\" has the name of another model", upstream.name));
    }
    if (!upstream.price.has_value()) unpriced->insert(upstream.name);
    if (const absl::Status status = CheckUpstream(upstream); !status.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("upstream \"{}\": {}", upstream.name, std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Setting> ServeSettings(ServeConfig* config) {
  constexpr int kMaxPort = 65535;
  const ServeConfig defaults;
  std::vector<Setting> settings = {
      {"host", "ADDRESS", "Address to listen on", defaults.host, SetText(&config->host)},
      {"port", "PORT", "HTTP port; 0: a free one", std::to_string(defaults.port),
       SetInt(&config->port, 0, kMaxPort)},
      {"grpc_port", "PORT", "gRPC port; 0: a free one; off: none",
       std::to_string(defaults.grpc_port), SetGrpcPort(&config->grpc_port)},
  };
  for (const auto& group : {ModelSettings(&config->engine), SchedulingSettings(&config->engine)}) {
    settings.insert(settings.end(), group.begin(), group.end());
  }
  const std::vector<Setting> rest = {
      {"max_body_size", "SIZE", "Largest request taken", "16MiB",
       SetBytes(&config->max_body_bytes)},
      {"drain_timeout", "SECONDS", "Time that running requests have to end on SIGTERM",
       std::to_string(defaults.drain_timeout_s), SetInt(&config->drain_timeout_s, 0, 86400)},
      {"admin", "local|on|off",
       "Whether /admin/ is answered: to requests from this machine, to all, or to none",
       defaults.admin, SetChoice(&config->admin, {"local", "on", "off"})},
      {"auto_max_prompt_tokens", "N",
       "Longest prompt that the default virtual model gives to the cheapest model",
       std::to_string(defaults.auto_max_prompt_tokens),
       SetInt(&config->auto_max_prompt_tokens, 1, std::numeric_limits<int>::max())},
      {"route_log", "FILE", "File to append every decision of a virtual model to, as JSON lines",
       "", SetText(&config->route_log)},
      {"route_log_prompts", "hash|text", "What of prompts goes into route_log",
       defaults.route_log_prompts, SetChoice(&config->route_log_prompts, {"hash", "text"})},
      {"route_state", "FILE",
       "File to keep what virtual models have spent and learned in, over restarts", "",
       SetText(&config->route_state)},
      {"energy_price", "USD", "Price of a kWh, for the cost of models that have watts", "0",
       SetNumber(&config->energy_price, 0, 1000)},
      {"encoder", "DIR",
       "Sentence encoder of the BERT family, for virtual models whose router was trained with it",
       "", SetText(&config->encoder)},
      {"encoder_tokens", "N", "Tokens of a prompt that the encoder looks at, as in training",
       std::to_string(defaults.encoder_tokens),
       SetInt(&config->encoder_tokens, 8, std::numeric_limits<int>::max())},
      {"encoder_wait_ms", "MS",
       "Longest wait of a prompt for others' embeddings; then it is routed without its own",
       fmt::format("{}", defaults.encoder_wait_ms), SetNumber(&config->encoder_wait_ms, 0, 60000)},
      {"log_format", "text|json", "Form of log lines", defaults.log_format,
       SetChoice(&config->log_format, {"text", "json"})},
      {"log_level", "LEVEL", "debug, info, warn, error or off; requests are logged at info",
       defaults.log_level,
       SetChoice(&config->log_level, {"debug", "info", "warn", "error", "off"})},
  };
  settings.insert(settings.end(), rest.begin(), rest.end());
  return settings;
}

absl::StatusOr<ModelConfig> ParseModelFlag(const std::string& text) {
  ModelConfig model;
  model.path = text;
  // A "=" behind a "/" is the path's own.
  const size_t equals = text.find_first_of("=/");
  if (equals != std::string::npos && text[equals] == '=') {
    model.name = text.substr(0, equals);
    model.path = text.substr(equals + 1);
    if (model.name.empty()) return absl::InvalidArgumentError("the name before = is empty");
  }
  HOSTLER_RETURN_IF_ERROR(CompleteModel(&model));
  return model;
}

absl::Status ReadYaml(const std::string& yaml, const std::string& file, ServeConfig* config) {
  HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Parse(yaml, file));
  return map.ReadSettings(
      ServeSettings(config),
      {{"models",
        [config](const YamlValue& value) { return ReadList(value, ReadModel, &config->models); }},
       {"upstreams",
        [config](const YamlValue& value) {
          return ReadList(value, ReadUpstream, &config->upstreams);
        }},
       {"virtual_models", [config](const YamlValue& value) {
          return ReadList(value, ReadVirtualModel, &config->virtual_models.emplace());
        }}});
}

absl::Status Validate(const ServeConfig& config) {
  if (config.models.empty() && config.upstreams.empty()) {
    return absl::InvalidArgumentError(
        "there is no model to serve: give --model PATH, or upstreams in the YAML file");
  }
  if (config.port != 0 && config.port == config.grpc_port) {
    return absl::InvalidArgumentError(fmt::format("port and grpc_port are both {}", config.port));
  }
  std::set<std::string> targets;
  for (const ModelConfig& model : config.models) {
    if (!targets.insert(model.name).second) {
      return absl::InvalidArgumentError(fmt::format(
          "two models are named \"{}\"; name one of them, as in --model NAME=PATH", model.name));
    }
  }
  std::set<std::string> unpriced;
  HOSTLER_RETURN_IF_ERROR(ValidateUpstreams(config.upstreams, &targets, &unpriced));
  std::set<std::string> names = targets;
  for (const VirtualModelConfig& model :
       config.virtual_models.value_or(std::vector<VirtualModelConfig>())) {
    if (!names.insert(model.name).second) {
      return absl::InvalidArgumentError(
          fmt::format("virtual model \"{}\" has the name of another model", model.name));
    }
    HOSTLER_RETURN_IF_ERROR(ValidateVirtualModel(model, targets, unpriced));
  }
  return absl::OkStatus();
}

}  // namespace hostler
