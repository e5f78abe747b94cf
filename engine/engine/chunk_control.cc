#include "engine/engine/chunk_control.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace hostler {
namespace {

// Of the best speed that any chunk has, rows per second.
constexpr double kLeastSpeed = 0.5;
// Fewer rows say little about more, and are not worth a step.
constexpr int kLeastLevel = 3;
// Before anything was measured.
constexpr int kFirstRows = 64;
// Every so many chunks one is of a neighbouring size, so that what is known of it
// stays true.
constexpr int kTryEvery = 8;
// A new measurement's share of what is remembered, if that is at most so many
// chunks old; and the most that it then counts for: beyond that it is somebody
// else's work on this machine.
constexpr double kRate = 0.3;
constexpr int kFresh = 4 * kTryEvery;
constexpr double kOutlier = 3;

}  // namespace

ChunkControl::ChunkControl(const Options& options)
    : options_(options),
      top_(std::min(kLevels,
                    static_cast<int>(std::bit_width(unsigned(std::max(options.max_rows, 1))))) -
           1),
      least_(std::min(kLeastLevel, top_)) {}

int ChunkControl::RowsOf(int level) const { return level == top_ ? options_.max_rows : 1 << level; }

int ChunkControl::Best() const {
  int chosen = least_;
  double best = 0;  // rows per second
  for (int level = least_; level <= top_; ++level) {
    const double seconds = levels_[level].seconds;
    if (seconds <= options_.target_seconds) chosen = level;
    best = std::max(best, (1 << level) / seconds);
  }
  while (chosen < top_ && (1 << chosen) / levels_[chosen].seconds < kLeastSpeed * best) ++chosen;
  return chosen;
}

int ChunkControl::Rows(int decodes) const {
  if (decodes == 0 || options_.target_seconds <= 0) return options_.max_rows;
  if (chunks_ == 0) return std::min(kFirstRows, options_.max_rows);
  const int best = Best();
  if (chunks_ % kTryEvery != 0) return RowsOf(best);
  const int smaller = std::max(best - 1, least_), larger = std::min(best + 1, top_);
  return RowsOf(levels_[smaller].measured_at < levels_[larger].measured_at ? smaller : larger);
}

void ChunkControl::OnStep(const StepSample& cost) {
  if (cost.prompt_rows < RowsOf(least_) || cost.seconds <= 0) return;
  const int level =
      std::clamp(static_cast<int>(std::lround(std::log2(cost.prompt_rows))), least_, top_);
  double seconds = cost.seconds * (1 << level) / cost.prompt_rows;
  Level& measured = levels_[level];
  if (measured.measured_at > 0 && chunks_ - measured.measured_at < kFresh) {
    const double before = measured.seconds;
    seconds = before + kRate * (std::min(seconds, kOutlier * before) - before);
  }
  // What is not measured is bounded by what is: more rows take longer, but no
  // longer than in proportion.
  for (int other = least_; other <= top_; ++other) {
    const double in_proportion = std::ldexp(seconds, other - level);
    const auto [low, high] = std::minmax(seconds, in_proportion);
    double& known = levels_[other].seconds;
    known = chunks_ > 0 ? std::clamp(known, low, high) : in_proportion;
  }
  measured.measured_at = ++chunks_;
}

}  // namespace hostler
