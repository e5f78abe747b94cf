// What an operator says of an upstream.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "router/target.h"

namespace hostler {

struct HealthOptions {
  std::string path;        // asked by GET; "": the API's /models
  double interval_s = 10;  // between checks; 0: none
  double timeout_s = 5;    // of one
  int failed_checks = 3;   // in a row: ejected
  int failures = 5;        // failed requests in a row: ejected
  // Ejected as well when this share of the requests of the last window_s
  // failed, of at least min_requests.
  double error_share = 0.5;
  int min_requests = 20;
  double window_s = 30;
  double ejection_s = 10;       // the first; doubled each time that it does not help
  double max_ejection_s = 300;  // ... up to this; also the longest Retry-After heeded
};

struct UpstreamOptions {
  std::string name;   // what clients call it
  std::string url;    // the API's base: http(s)://HOST[:PORT][/PATH]; no path: /v1
  std::string model;  // the upstream's name for it; "": `name`
  // Where the key is; at most one of them.
  std::string api_key_file;
  std::string api_key_env;
  // Send the client's Authorization header if there is one, instead of the key.
  bool forward_authorization = false;
  std::string ca_file;  // PEM; "": the system's authorities
  std::optional<Price> price;
  int max_context = 0;        // tokens; 0: not known
  int max_concurrency = 256;  // requests at the same time
  int max_queued = 256;       // further ones that wait
  double queue_timeout_s = 30;
  double connect_timeout_s = 5;          // name, TCP and TLS
  double first_token_timeout_s = 120;    // from sending
  double idle_timeout_s = 60;            // between two events of a stream
  double request_timeout_s = 1800;       // from sending to the end
  uint64_t max_event_bytes = 1 << 20;    // one event of a stream
  uint64_t max_answer_bytes = 32 << 20;  // an answer that is not streamed
  HealthOptions health;

  // Told of ejections and returns, for the log. Any thread; must not block.
  std::function<void(const std::string& text)> on_event;
};

}  // namespace hostler
