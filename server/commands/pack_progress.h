// How far a long pass over a model's bytes has come, for a person to see.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "server/commands/terminal.h"

namespace hostler {

// On a terminal a bar that is redrawn; elsewhere a line on stderr for every
// tenth, at most one a second. An interrupt (SIGINT, SIGTERM) makes Show()
// false, so that the work ends cleanly; the signals do as before once this is
// destroyed. One at a time.
class ByteProgress {
 public:
  explicit ByteProgress(std::string what);  // "packing"
  ~ByteProgress();
  ByteProgress(const ByteProgress&) = delete;
  ByteProgress& operator=(const ByteProgress&) = delete;

  // False once it was interrupted.
  bool Show(uint64_t done, uint64_t total);
  double seconds() const;

 private:
  const std::string what_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  ProgressLine line_;
  double last_shown_ = 0;  // seconds
  int tenths_ = 0;         // shown
};

// "3.63 GiB in 4.2 s, 885 MiB/s".
std::string BytesInTime(uint64_t bytes, double seconds);

}  // namespace hostler
