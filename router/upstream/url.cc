#include "router/upstream/url.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kHttpPort = 80, kHttpsPort = 443;
constexpr size_t kMaxBytes = 2048;

bool IsHostChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_';
}

bool IsPathChar(char c) { return c > ' ' && c < 0x7f && c != '"' && c != '<' && c != '>'; }

// HOST or [ADDRESS], taken off `text`; "" when there is none.
std::string TakeHost(std::string_view* text) {
  std::string host;
  if (text->starts_with('[')) {
    const size_t end = text->find(']');
    if (end == text->npos) return "";
    host = text->substr(1, end - 1);
    text->remove_prefix(end + 1);
    const bool address = host.find_first_not_of("0123456789abcdefABCDEF:.") == host.npos;
    return address ? host : "";
  }
  const size_t end = std::min(text->find(':'), text->size());
  host = text->substr(0, end);
  text->remove_prefix(end);
  return std::all_of(host.begin(), host.end(), IsHostChar) ? host : "";
}

}  // namespace

std::string UpstreamUrl::Authority() const {
  const std::string shown = host.find(':') == host.npos ? host : fmt::format("[{}]", host);
  return port == (tls ? kHttpsPort : kHttpPort) ? shown : fmt::format("{}:{}", shown, port);
}

absl::StatusOr<UpstreamUrl> ParseUpstreamUrl(const std::string& text) {
  // The text itself is not repeated: it may hold a password.
  const auto error = [](std::string_view what) {
    return absl::InvalidArgumentError(
        fmt::format("the URL must be http(s)://HOST[:PORT][/PATH]: {}", what));
  };
  UpstreamUrl url;
  std::string_view left = text;
  if (left.size() > kMaxBytes) return error("it is too long");
  if (left.starts_with("https://")) {
    url.tls = true;
    left.remove_prefix(8);
  } else if (left.starts_with("http://")) {
    left.remove_prefix(7);
  } else {
    return error("it begins with neither http:// nor https://");
  }
  const size_t slash = std::min(left.find('/'), left.size());
  std::string_view authority = left.substr(0, slash);
  url.base = left.substr(slash);
  if (authority.find('@') != authority.npos) {
    return error("a user or password is not taken; use api_key_file or api_key_env");
  }
  if (left.find_first_of("?#") != left.npos) return error("it has a query or fragment");
  url.host = TakeHost(&authority);
  if (url.host.empty()) return error("it has no valid host");
  url.port = url.tls ? kHttpsPort : kHttpPort;
  if (!authority.empty()) {
    authority.remove_prefix(1);
    const auto end = authority.data() + authority.size();
    const auto [stop, ec] = std::from_chars(authority.data(), end, url.port);
    if (ec != std::errc() || stop != end || url.port < 1 || url.port > 65535) {
      return error("its port is not one from 1 to 65535");
    }
  }
  if (!std::all_of(url.base.begin(), url.base.end(), IsPathChar)) {
    return error("its path has characters that must be escaped");
  }
  while (url.base.ends_with('/')) url.base.pop_back();
  if (url.base.empty()) url.base = "/v1";
  return url;
}

}  // namespace hostler
