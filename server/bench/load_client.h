// Loads an OpenAI-compatible server over plain HTTP with a plan of requests
// and times every answer. One thread and asynchronous I/O, so that hundreds of
// streams cost little beside a server on the same machine.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/bench/report.h"
#include "server/bench/trace.h"

namespace hostler {

struct ServerAddress {
  std::string host;
  std::string port;
  std::string base_path;  // before "/v1", without a trailing slash
};

// "http://host[:port][/path]"; a trailing "/v1" is dropped. Errors:
// InvalidArgument, for other schemes too.
absl::StatusOr<ServerAddress> ParseServerUrl(const std::string& url);

struct HttpAnswer {
  int status = 0;
  std::string body;
};

// GET `path` below the address, once, or with a `body` POST. Errors: Unavailable
// naming the server when nothing answers within `timeout_s`.
absl::StatusOr<HttpAnswer> FetchFrom(const ServerAddress& address, const std::string& path,
                                     int timeout_s, const std::string& body = "");

// What GET /v1/models tells; servers differ in how much.
struct ServerInfo {
  std::string model;
  std::optional<int> vocab;
  std::optional<int> context;  // tokens
};

// `model`: which of the server's; "": its first. Errors: Unavailable when
// nothing answers; NotFound when the server lists models but not this one;
// FailedPrecondition when what answers is no such server.
absl::StatusOr<ServerInfo> AskServer(const ServerAddress& address, const std::string& model,
                                     int timeout_s);

struct LoadOptions {
  std::string model;
  int concurrency = 0;  // closed loop of this many clients; 0: open loop
  double speed = 1;     // open loop: a request is sent at at_s / speed
  IntRange ids;         // of the prompts' tokens
  uint64_t seed = 1;
  int timeout_s = 600;  // of one request
};

struct LoadProgress {
  double elapsed_s = 0;
  int sent = 0, done = 0, failed = 0, total = 0;
  int64_t output_events = 0;
};

// Sends the plan and waits for every answer. Requests go to /v1/completions as
// token ids, streamed, greedy, with forced length. `progress` (may be null) is
// called once a second. Outcomes are in the plan's order.
std::vector<Outcome> RunLoad(const ServerAddress& address, const LoadPlan& plan,
                             const LoadOptions& options,
                             const std::function<void(const LoadProgress&)>& progress);

// The JSON body of one request.
std::string CompletionBody(const PlannedRequest& request, int block_tokens,
                           const LoadOptions& options);

}  // namespace hostler
