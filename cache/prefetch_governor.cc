#include "cache/prefetch_governor.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace hostler {
namespace {

// By rising number of reads.
constexpr float kLevels[] = {PrefetchGovernor::kNever, 0.75f, 0.5f, 0.3f};

// Long enough that what the turn before left behind matters little.
constexpr int kTurnSteps = 8;
constexpr int kLeastPairs = 3, kMostPairs = 12;
constexpr double kErrors = 2.5;  // standard errors of the mean that decide
// A challenger that reads more must win by this share where errors decide nothing.
constexpr double kMargin = 0.01;
constexpr int kWarmUp = 32, kFirstRest = 512, kLongestRest = 1 << 15;  // steps
constexpr int kQuietSteps = 16;

}  // namespace

PrefetchGovernor::PrefetchGovernor() : rest_(kWarmUp), next_rest_(kFirstRest) {}

float PrefetchGovernor::Chance(int level) { return kLevels[level]; }

int PrefetchGovernor::Level() const {
  if (rest_ > 0) return winner_;
  return (turn_ + ratios_.pairs) % 2 == 0 ? winner_ : challenger_;
}

float PrefetchGovernor::least_chance() const {
  return quiet_ >= kQuietSteps ? kNever : Chance(Level());
}

void PrefetchGovernor::OnStep(const StepCost& cost, uint64_t misses) {
  quiet_ = misses > 0 ? 0 : std::min(quiet_ + 1, kQuietSteps);
  if (misses == 0 || cost.prompt_rows > 0 || cost.decode_rows == 0 || cost.seconds <= 0) return;
  if (rest_ > 0) {
    --rest_;
    rows_ = 0;
    return;
  }
  if (cost.decode_rows != rows_) {
    rows_ = cost.decode_rows;
    turn_ = 0;
    steps_ = 0;
    seconds_[0] = seconds_[1] = 0;
    return;  // its first step may have had other neighbours
  }
  seconds_[turn_] += cost.seconds;
  if (++steps_ < kTurnSteps) return;
  steps_ = 0;
  if (++turn_ == 2) EndPair();
}

void PrefetchGovernor::EndPair() {
  const bool winner_first = ratios_.pairs % 2 == 0;
  const double ratio = std::log(seconds_[1] / seconds_[0]) * (winner_first ? 1 : -1);
  turn_ = 0;
  seconds_[0] = seconds_[1] = 0;
  ++ratios_.pairs;
  ratios_.sum += ratio;
  ratios_.squares += ratio * ratio;
  if (const Verdict verdict = Judge(); verdict != Verdict::kOpen) {
    EndTrial(verdict == Verdict::kChallenger);
  }
}

PrefetchGovernor::Verdict PrefetchGovernor::Judge() const {
  const int n = ratios_.pairs;
  if (n < kLeastPairs) return Verdict::kOpen;
  const double mean = ratios_.sum / n;
  const double variance = std::max(0.0, ratios_.squares / n - mean * mean) * n / (n - 1);
  const double error = std::sqrt(variance / n);
  if (mean < -kErrors * error) return Verdict::kChallenger;
  if (mean > kErrors * error) return Verdict::kWinner;
  if (n < kMostPairs) return Verdict::kOpen;
  const double needed = challenger_ > winner_ ? -kMargin : kMargin;
  return mean < needed ? Verdict::kChallenger : Verdict::kWinner;
}

void PrefetchGovernor::EndTrial(bool challenger_won) {
  last_difference_ = std::exp(ratios_.sum / ratios_.pairs) - 1;
  ratios_ = {};
  ++trials_;
  if (challenger_won) {
    winner_ = challenger_;
    next_rest_ = kFirstRest;
  } else {
    next_rest_ = std::min(next_rest_ * 2, kLongestRest);
  }
  rest_ = next_rest_;
  challenger_ = NextChallenger();
}

// The neighbours by turns.
int PrefetchGovernor::NextChallenger() const {
  const int last = static_cast<int>(std::size(kLevels)) - 1;
  if (winner_ == 0) return 1;
  if (winner_ == last) return last - 1;
  return trials_ % 2 == 0 ? winner_ - 1 : winner_ + 1;
}

}  // namespace hostler
