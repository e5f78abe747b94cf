// What the commands share of talking to a terminal, a pipe or a file: results
// go to stdout, everything else to stderr.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// As Fail(), for errors that are never the command line's: kExitFailed.
int FailRunning(const absl::Status& status);

// Prints "hostler: warning: …" to stderr.
void PrintWarning(std::string_view text);

// Flushes stdout. Returns kExitOk, or kExitFailed with an error when not all
// of it could be written.
int FinishStdout();

// All of stdin.
std::string ReadStdin();

// Errors: NotFound; Unavailable when it cannot be read.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// A line on stderr that is rewritten in place. Silent unless stderr is a
// terminal. One thread at a time.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  // wipes the line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(std::string_view text);
  bool visible() const { return terminal_; }

 private:
  const bool terminal_;
  bool shown_ = false;
};

}  // namespace hostler
