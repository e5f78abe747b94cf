// SseReader: server-sent events out of bytes as they come.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace hostler {

// Follows the event stream format of the HTML standard (section 9.2.6), of which
// "data" alone matters here. The lines of an event's data are joined by a
// space, so that JSON stays the same JSON and takes one line. A field "error", which
// llama.cpp's older servers write, counts as data.
class SseReader {
 public:
  // Longer events, and longer lines, are refused.
  explicit SseReader(size_t max_event_bytes) : max_bytes_(max_event_bytes) {}

  // Appends the data of every event that `bytes` complete. Errors:
  // ResourceExhausted for what is too long; nothing may be fed after.
  absl::Status Feed(std::string_view bytes, std::vector<std::string>* events);

  // Bytes were fed that belong to no completed event.
  bool partial() const { return has_data_ || !line_.empty(); }

 private:
  absl::Status EndLine(std::vector<std::string>* events);
  absl::Status CheckSize() const;

  const size_t max_bytes_;
  std::string line_;  // that has not ended yet
  bool after_cr_ = false;
  bool at_start_ = true;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace hostler
