#include "engine/engine/split_control.h"

#include <algorithm>
#include <utility>

namespace hostler {
namespace {

constexpr int kWindowSteps = 512;
// Waiting this long is no coincidence.
constexpr int kShortSteps = 16;
// Blocks are spare beyond so much of what was used at most; and moving fewer
// than a quarter is not worth the recomputing.
constexpr double kRoom = 1.5;
constexpr double kLeastMove = 0.25;

}  // namespace

std::optional<int> SplitControl::OnStep(const Step& step) {
  peak_ = std::max(peak_, step.used);
  short_steps_ += step.short_of_blocks;
  missing_steps_ += step.missing_experts;
  ++steps_;
  if (short_steps_ >= kShortSteps) {
    steps_ = short_steps_ = missing_steps_ = 0;
    peak_ = 0;
    last_peak_ = -1;
    const int more = std::min(most_, step.limit + std::max(1, step.limit / 4));
    return more > step.limit ? std::optional(more) : std::nullopt;
  }
  if (steps_ < kWindowSteps) return std::nullopt;
  const bool misses = std::exchange(missing_steps_, 0) > kWindowSteps / 4;
  const int before = std::exchange(last_peak_, std::exchange(peak_, 0));
  steps_ = short_steps_ = 0;
  if (!misses || before < 0) return std::nullopt;
  const int wanted = std::max(least_, static_cast<int>(kRoom * std::max(before, last_peak_)) + 1);
  return wanted < step.limit * (1 - kLeastMove) ? std::optional(wanted) : std::nullopt;
}

}  // namespace hostler
