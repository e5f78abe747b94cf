#include "server/commands/terminal.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "fmt/format.h"
#include "server/commands/command.h"

namespace hostler {

int FailRunning(const absl::Status& status) {
  Fail(status);
  return kExitFailed;
}

void PrintWarning(std::string_view text) { fmt::print(stderr, "hostler: warning: {}\n", text); }

int FinishStdout() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return kExitOk;
  return FailRunning(
      absl::UnavailableError(fmt::format("cannot write to stdout: {}", std::strerror(errno))));
}

std::string ReadStdin() {
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(fmt::format("there is no file {}", path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::UnavailableError(fmt::format("cannot read {}", path));
  }
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return absl::UnavailableError(fmt::format("cannot read {}", path));
  return text;
}

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void ProgressLine::Show(std::string_view text) {
  if (!terminal_) return;
  shown_ = true;
  fmt::print(stderr, "\r\033[K{}", text);
  std::fflush(stderr);
}

}  // namespace hostler
