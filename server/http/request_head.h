// Reading a request's head, and writing an answer's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "router/net/beast.h"
#include "server/http/reply.h"

namespace hostler {

// Everything but body, peer and loopback.
HttpRequest ReadHead(const http::request<http::string_body>& request);

// The client waits for "100 Continue" before it sends the body.
bool WantsContinue(const http::request<http::string_body>& request);

// Appends "name: value\r\n"; of `value` only what may stand in a header.
void AppendHeader(std::string_view name, std::string_view value, std::string* out);

// The value of `key` in a query ("a=1&b=x%20y"), decoded; nullopt when it is not
// there.
std::optional<std::string> QueryValue(std::string_view query, std::string_view key);

// "Not Found" for 404.
std::string_view ReasonPhrase(int status);

}  // namespace hostler
