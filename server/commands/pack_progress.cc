#include "server/commands/pack_progress.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "engine/base/bytes.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr double kRedrawSeconds = 0.1, kLineSeconds = 1;
constexpr int kBarWidth = 30;

volatile sig_atomic_t g_interrupted = 0;

void Interrupt(int) { g_interrupted = 1; }

void OnInterrupt(void (*handler)(int)) {
  for (const int number : {SIGINT, SIGTERM}) signal(number, handler);
}

}  // namespace

ByteProgress::ByteProgress(std::string what) : what_(std::move(what)) {
  g_interrupted = 0;
  OnInterrupt(Interrupt);
}

ByteProgress::~ByteProgress() { OnInterrupt(SIG_DFL); }

bool ByteProgress::Show(uint64_t done, uint64_t total) {
  const double now = seconds();
  const double share = total == 0 ? 1 : std::min(1.0, double(done) / total);
  const std::string numbers =
      fmt::format("{:.0f}% of {}, {}/s", 100 * share, FormatBytes(total),
                  FormatBytes(now > 0 ? static_cast<uint64_t>(done / now) : 0));
  if (line_.visible() && now - last_shown_ >= kRedrawSeconds) {
    last_shown_ = now;
    const int full = static_cast<int>(share * kBarWidth);
    line_.Show(
        fmt::format("{} [{:#<{}}{:.<{}}] {}", what_, "", full, "", kBarWidth - full, numbers));
  } else if (const int tenths = static_cast<int>(share * 10);
             !line_.visible() && tenths > tenths_ && now - last_shown_ >= kLineSeconds) {
    last_shown_ = now;
    tenths_ = tenths;
    fmt::print(stderr, "{}: {}\n", what_, numbers);
  }
  return g_interrupted == 0;
}

double ByteProgress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

std::string BytesInTime(uint64_t bytes, double seconds) {
  return fmt::format("{} in {:.1f} s, {}/s", FormatBytes(bytes), seconds,
                     FormatBytes(static_cast<uint64_t>(bytes / std::max(seconds, 1e-9))));
}

}  // namespace hostler
