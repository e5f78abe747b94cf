#include "router/upstream/sse.h"

#include <algorithm>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace

absl::Status SseReader::CheckSize() const {
  if (line_.size() + data_.size() <= max_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("an event of its stream is longer than {} bytes", max_bytes_));
}

absl::Status SseReader::Feed(std::string_view bytes, std::vector<std::string>* events) {
  while (!bytes.empty()) {
    if (std::exchange(after_cr_, false) && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const size_t end = std::min(bytes.find_first_of("\r\n"), bytes.size());
    line_ += bytes.substr(0, end);
    HOSTLER_RETURN_IF_ERROR(CheckSize());
    if (end == bytes.size()) return absl::OkStatus();
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    HOSTLER_RETURN_IF_ERROR(EndLine(events));
  }
  return absl::OkStatus();
}

absl::Status SseReader::EndLine(std::vector<std::string>* events) {
  std::string_view line = line_;
  if (std::exchange(at_start_, false) && line.starts_with(kByteOrderMark)) {
    line.remove_prefix(kByteOrderMark.size());
  }
  if (line.empty()) {
    if (std::exchange(has_data_, false)) events->push_back(std::exchange(data_, {}));
  } else {
    const size_t colon = std::min(line.find(':'), line.size());
    const std::string_view field = line.substr(0, colon);
    if (field == "data" || field == "error") {
      std::string_view value = line.substr(std::min(colon + 1, line.size()));
      if (value.starts_with(' ')) value.remove_prefix(1);
      if (std::exchange(has_data_, true)) data_ += ' ';
      data_ += value;
    }
  }
  line_.clear();
  return CheckSize();
}

}  // namespace hostler
