#include "server/http/request_head.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

namespace hostler {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// With %XX decoded where it is well-formed.
std::string Decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? HexDigit(text[i + 2]) : -1;
    if (text[i] == '%' && high >= 0 && low >= 0) {
      decoded.push_back(char(high * 16 + low));
      i += 2;
    } else {
      decoded.push_back(text[i]);
    }
  }
  return decoded;
}

bool IsSaneRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
         });
}

std::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

// A browser asks a server first before it posts JSON to another site, but
// other content types it sends right away.
bool IsCrossOrigin(const http::request<http::string_body>& request) {
  const std::string_view origin = View(request[http::field::origin]);
  const std::string_view type = View(request[http::field::content_type]);
  if (origin.empty() || type.starts_with("application/json")) return false;
  const size_t host = origin.find("://");
  return host == origin.npos || origin.substr(host + 3) != View(request[http::field::host]);
}

// "[::1]:8000", "127.0.0.1:8000", "localhost"; or none at all, as only a client
// that is no browser sends it.
bool IsThisMachine(std::string_view host) {
  if (host.starts_with('[')) return host == "[::1]" || host.starts_with("[::1]:");
  host = host.substr(0, host.find(':'));
  if (host.empty() || beast::iequals({host.data(), host.size()}, "localhost")) return true;
  in_addr address = {};
  return inet_pton(AF_INET, std::string(host).c_str(), &address) == 1 &&
         ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET;
}

bool IsProxied(const http::request<http::string_body>& request) {
  for (const char* name : {"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host",
                           "X-Forwarded-Proto", "X-Real-IP"}) {
    if (request.find(name) != request.end()) return true;
  }
  return false;
}

}  // namespace

HttpRequest ReadHead(const http::request<http::string_body>& request) {
  HttpRequest head;
  head.method = std::string(View(request.method_string()));
  const std::string_view target = View(request.target());
  const size_t query = target.find('?');
  head.path = Decode(target.substr(0, query));
  if (query != target.npos) head.query = std::string(target.substr(query + 1));
  head.cross_origin = IsCrossOrigin(request);
  head.proxied = IsProxied(request);
  head.local_host = IsThisMachine(View(request[http::field::host]));
  const std::string_view id = View(request["x-request-id"]);
  if (IsSaneRequestId(id)) head.request_id = std::string(id);
  head.authorization = std::string(View(request[http::field::authorization]));
  return head;
}

bool WantsContinue(const http::request<http::string_body>& request) {
  return beast::iequals(request[http::field::expect], "100-continue");
}

std::optional<std::string> QueryValue(std::string_view query, std::string_view key) {
  while (!query.empty()) {
    const std::string_view part = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), part.size() + 1));
    const size_t equals = std::min(part.size(), part.find('='));
    if (Decode(part.substr(0, equals)) != key) continue;
    return Decode(part.substr(std::min(part.size(), equals + 1)));
  }
  return std::nullopt;
}

void AppendHeader(std::string_view name, std::string_view value, std::string* out) {
  *out += name;
  *out += ": ";
  for (const char c : value) out->push_back(c >= 0x20 && c < 0x7f ? c : '?');
  *out += "\r\n";
}

std::string_view ReasonPhrase(int status) {
  return View(http::obsolete_reason(http::int_to_status(unsigned(status))));
}

}  // namespace hostler
