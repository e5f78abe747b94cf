#include "engine/engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace hostler {

// The longest end of pending_ that a stop string begins with.
size_t StopMatcher::HeldBack() const {
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(pending_.size(), stop.size() - 1); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
    }
  }
  return held;
}

std::string StopMatcher::Add(std::string_view text) {
  if (!found_.empty()) return "";
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = pending_.find(stop);
    if (at < first) {
      first = at;
      found_ = stop;
    }
  }
  if (first != std::string::npos) {
    std::string shown = pending_.substr(0, first + (include_ ? found_.size() : 0));
    pending_.clear();
    return shown;
  }
  const size_t shown = pending_.size() - HeldBack();
  std::string out = pending_.substr(0, shown);
  pending_.erase(0, shown);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(pending_, {}); }

}  // namespace hostler
