#include "server/http/request_head.h"

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

// The path of a request target, with %XX decoded where it is well-formed.
std::string DecodePath(std::string_view target) {
  target = target.substr(0, target.find('?'));
  std::string path;
  for (size_t i = 0; i < target.size(); ++i) {
    const int high = i + 2 < target.size() ? HexDigit(target[i + 1]) : -1;
    const int low = i + 2 < target.size() ? HexDigit(target[i + 2]) : -1;
    if (target[i] == '%' && high >= 0 && low >= 0) {
      path.push_back(char(high * 16 + low));
      i += 2;
    } else {
      path.push_back(target[i]);
    }
  }
  return path;
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

}  // namespace

HttpRequest ReadHead(const http::request<http::string_body>& request) {
  HttpRequest head;
  head.method = std::string(View(request.method_string()));
  head.path = DecodePath(View(request.target()));
  head.cross_origin = IsCrossOrigin(request);
  const std::string_view id = View(request["x-request-id"]);
  if (IsSaneRequestId(id)) head.request_id = std::string(id);
  return head;
}

bool WantsContinue(const http::request<http::string_body>& request) {
  return beast::iequals(request[http::field::expect], "100-continue");
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
