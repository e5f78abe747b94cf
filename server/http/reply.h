// What a request is, and what a short answer is, apart from any I/O.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace hostler {

struct HttpRequest {
  std::string method;
  std::string path;   // decoded, without the query
  std::string query;  // as it came, without "?"
  std::string body;
  std::string peer;           // address and port
  std::string request_id;     // the client's x-request-id if it is a sane one, else ""
  std::string authorization;  // the header
  bool cross_origin = false;  // a browser sent it for a page of another site
  bool loopback = false;      // the peer is on this machine
  bool proxied = false;       // a proxy says that it passes it on
  // Its Host is a loopback address or "localhost", or there is none: a page of
  // another site that has its own name resolve to this machine (DNS rebinding)
  // sends that name.
  bool local_host = false;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Reply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers;
};

// `status` as OpenAI's error object, or as the upstream that it came from put it.
Reply ErrorReply(const absl::Status& status);

// The same with an HTTP status that no absl status stands for.
Reply ErrorReply(int http_status, const std::string& message);

}  // namespace hostler
