// Finds stop strings in text that comes in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hostler {

// One per sequence; not thread-safe.
class StopMatcher {
 public:
  // `include`: the stop string itself stays in the text.
  StopMatcher(std::vector<std::string> stops, bool include)
      : stops_(std::move(stops)), include_(include) {}

  // Adds text; returns what can be shown: all of it but an end that may be the
  // beginning of a stop string, or, once one is complete, all before it.
  std::string Add(std::string_view text);

  // What was held back and is no stop string after all.
  std::string Flush();

  // The stop string that was found first, or "".
  const std::string& found() const { return found_; }

 private:
  size_t HeldBack() const;

  std::vector<std::string> stops_;
  bool include_;
  std::string pending_;
  std::string found_;
};

}  // namespace hostler
