#include "server/upstream_config.h"

#include <limits>
#include <string>
#include <vector>

#include "engine/base/status.h"

namespace hostler {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr double kMaxPrice = 1e6;
constexpr double kDay = 86400;
// Below it a time limit says that something is wrong, not slow.
constexpr double kShortest = 0.001;

absl::Status ReadHealth(const YamlValue& value, HealthOptions* health) {
  HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, value.AsMap());
  HOSTLER_RETURN_IF_ERROR(map.ReadSettings(
      {{"path", "PATH", "", "", SetText(&health->path)},
       {"interval", "SECONDS", "", "", SetNumber(&health->interval_s, 0, kDay)},
       {"timeout", "SECONDS", "", "", SetNumber(&health->timeout_s, kShortest, kDay)},
       {"failed_checks", "N", "", "", SetInt(&health->failed_checks, 1, kMaxInt)},
       {"failures", "N", "", "", SetInt(&health->failures, 1, kMaxInt)},
       {"error_share", "SHARE", "", "", SetNumber(&health->error_share, 0.01, 1)},
       {"min_requests", "N", "", "", SetInt(&health->min_requests, 1, kMaxInt)},
       {"window", "SECONDS", "", "", SetNumber(&health->window_s, kShortest, kDay)},
       {"ejection", "SECONDS", "", "", SetNumber(&health->ejection_s, kShortest, kDay)},
       {"max_ejection", "SECONDS", "", "", SetNumber(&health->max_ejection_s, kShortest, kDay)}},
      {}));
  const std::string& path = health->path;
  const bool plain = path.find_first_of(" \t\r\n") == path.npos;
  if (!path.empty() && (path.front() != '/' || !plain)) {
    return map.Error("path must begin with / and have no spaces");
  }
  if (health->max_ejection_s < health->ejection_s) {
    return map.Error("max_ejection is less than ejection");
  }
  return absl::OkStatus();
}

std::vector<Setting> LimitSettings(UpstreamOptions* upstream) {
  return {
      {"max_context", "TOKENS", "", "", SetInt(&upstream->max_context, 1, kMaxInt)},
      {"max_concurrency", "N", "", "", SetInt(&upstream->max_concurrency, 1, 1 << 16)},
      {"max_queued", "N", "", "", SetInt(&upstream->max_queued, 0, 1 << 20)},
      {"queue_timeout", "SECONDS", "", "", SetNumber(&upstream->queue_timeout_s, 0, kDay)},
      {"connect_timeout", "SECONDS", "", "",
       SetNumber(&upstream->connect_timeout_s, kShortest, kDay)},
      {"first_token_timeout", "SECONDS", "", "",
       SetNumber(&upstream->first_token_timeout_s, kShortest, kDay)},
      {"idle_timeout", "SECONDS", "", "", SetNumber(&upstream->idle_timeout_s, kShortest, kDay)},
      {"request_timeout", "SECONDS", "", "",
       SetNumber(&upstream->request_timeout_s, kShortest, kDay)},
      {"max_event_size", "SIZE", "", "", SetBytes(&upstream->max_event_bytes)},
      {"max_answer_size", "SIZE", "", "", SetBytes(&upstream->max_answer_bytes)},
  };
}

}  // namespace

absl::Status ReadPrice(const YamlValue& value, std::optional<Price>* price) {
  HOSTLER_ASSIGN_OR_RETURN(const YamlMap map, value.AsMap());
  Price read{-1, -1};
  HOSTLER_RETURN_IF_ERROR(
      map.ReadSettings({{"input", "USD", "", "", SetNumber(&read.input, 0, kMaxPrice)},
                        {"output", "USD", "", "", SetNumber(&read.output, 0, kMaxPrice)}},
                       {}));
  if (read.input < 0 || read.output < 0) {
    return value.Error("needs both input and output, in USD per million tokens");
  }
  *price = read;
  return absl::OkStatus();
}

absl::Status ReadUpstream(const YamlMap& map, UpstreamOptions* upstream) {
  std::vector<Setting> settings = LimitSettings(upstream);
  const std::vector<Setting> who = {
      {"name", "NAME", "", "", SetText(&upstream->name)},
      {"url", "URL", "", "", SetText(&upstream->url)},
      {"model", "NAME", "", "", SetText(&upstream->model)},
      {"api_key_file", "FILE", "", "", SetText(&upstream->api_key_file)},
      {"api_key_env", "VARIABLE", "", "", SetText(&upstream->api_key_env)},
      {"forward_authorization", "", "", "", SetBool(&upstream->forward_authorization)},
      {"ca_file", "FILE", "", "", SetText(&upstream->ca_file)},
  };
  settings.insert(settings.end(), who.begin(), who.end());
  HOSTLER_RETURN_IF_ERROR(map.ReadSettings(
      settings,
      {{"price", [upstream](const YamlValue& value) { return ReadPrice(value, &upstream->price); }},
       {"health",
        [upstream](const YamlValue& value) { return ReadHealth(value, &upstream->health); }}}));
  if (upstream->name.empty()) return map.Error("an upstream needs a name");
  if (upstream->url.empty()) return map.Error("an upstream needs a url");
  if (upstream->max_event_bytes == 0 || upstream->max_answer_bytes == 0) {
    return map.Error("max_event_size and max_answer_size must not be 0");
  }
  return absl::OkStatus();
}

}  // namespace hostler
