#include "engine/engine/width_control.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace hostler {
namespace {

// Steps that an estimate remembers, and that the first one needs.
constexpr int kMemory = 128;
constexpr int kEnough = 8;

// Below this share of a step's time spent on waiting for reads no narrower width
// can gain enough to be worth a try: it saves reads and nothing else.
constexpr double kWorthTrying = 0.1;
// A narrower width must be this much faster. A wider one, with which everybody
// goes on at once, may be as slow.
constexpr double kGain = 0.03;
constexpr double kTie = 0.01;

// A probe takes at least these steps, and until what the cache holds was
// replaced twice, but so many steps or seconds are enough for that. While it is
// too close to call it goes on, which by then costs little.
constexpr int kProbeSteps = 24;
constexpr int kLongProbeSteps = 48;
constexpr double kProbeSeconds = 4;
constexpr double kProbeTurnovers = 2;
constexpr int kMostProbeSteps = 96;
// Hopeless after fewer.
constexpr int kHopelessSteps = 4;
constexpr double kHopeless = 1.5;

// What probes may cost: a width that lost rests until the loss is this share of
// the time since, longer with every further loss, and at least so many times the
// probe's length.
constexpr double kRegret = 0.005;
constexpr double kRest = 20;
constexpr double kLongestRest = 900;
constexpr int kMostDoublings = 4;
// A width that has been left is tried again after so many lengths, unless the
// new one is so much better that nothing else can be the reason.
constexpr double kVerify = 8;
constexpr double kPlain = 0.6;
// Widths between one and all come late, as sharing a cache mostly gets worse
// before it gets better, but at once where one alone is about as fast as all.
constexpr double kLateSeconds = 20;
constexpr double kClose = 0.15;
// A cost that has changed so much asks for new probes.
constexpr double kDrift = 1.3;

// Steps after a change of width, after a prompt and at the start: the cache holds
// what others used, and its policy has to learn whom it serves now.
constexpr int kUnsettledSteps = 16;
constexpr int kStepsAfterPrompt = 2;
constexpr int kStartSteps = 32;

// A slice that has replaced the cache so many times has paid for its cold start.
constexpr double kSliceTurnovers = 40;

// A sample so far above the mean is somebody else's work on this machine.
constexpr double kOutlier = 3;

// Seconds to rest after a probe that took `length` and was `ratio` times as
// slow as what there was.
double RestSeconds(double length, double ratio, int losses) {
  const double rest = length * std::max(kRest, std::max(ratio - 1, 0.0) / kRegret);
  return std::min(kLongestRest, rest * (1 << std::min(losses, kMostDoublings)));
}

double Turnovers(const StepSample& cost) {
  return cost.cache_bytes > 0 ? double(cost.read_bytes) / double(cost.cache_bytes) : 0;
}

}  // namespace

void WidthControl::Estimate::Add(double value) {
  if (count >= kEnough) value = std::min(value, kOutlier * mean);
  count = std::min(count + 1, kMemory);
  const double change = value - mean;
  mean += change / count;
  variance += (change * (value - mean) - variance) / count;
}

double WidthControl::Estimate::error() const {
  return count > 1 ? std::sqrt(variance / (count - 1)) : mean;
}

WidthControl::WidthControl(const Options& options) : options_(options) {
  // Until the cache has filled.
  unsettled_steps_ = kStartSteps;
}

int WidthControl::LevelOf(int width) {
  return std::min(kLevels - 1, static_cast<int>(std::bit_width(unsigned(std::max(width, 1)) - 1)));
}

int WidthControl::CurrentLevel() const {
  return probe_.active ? probe_.level : std::min(loads_[top_].level, top_);
}

int WidthControl::Width(int ready) {
  if (ready != ready_) SetReady(ready);
  const int most = std::min(ready, options_.max_width);
  if (options_.fixed > 0) return width_ = std::min(most, options_.fixed);
  const int level = CurrentLevel();
  return width_ = level >= top_ ? most : std::min(most, 1 << level);
}

void WidthControl::SetReady(int ready) {
  ready_ = ready;
  const int top = LevelOf(std::min(ready, options_.max_width));
  if (top == top_) return;
  top_ = top;
  probe_ = {};
  Settle();
  if (!load().begun) Begin(load());
}

void WidthControl::Begin(Load& load) {
  load.begun = true;
  for (int level = 1; level < top_; ++level) load.levels[level].next_probe = clock_ + kLateSeconds;
}

void WidthControl::Settle() { unsettled_steps_ = kUnsettledSteps; }

void WidthControl::MaybeProbe() {
  if (probe_.active || top_ == 0 || unsettled_steps_ > 0 || load().cost.count < kEnough ||
      clock_ < rest_until_) {
    return;
  }
  const int level = NextProbe();
  if (level < 0) return;
  probe_ = {};
  probe_.active = true;
  probe_.level = level;
  ++probes_;
  Settle();
}

// The level to try now: one sequence alone before all, all before those between
// and of these the nearest. -1: none.
int WidthControl::NextProbe() {
  Load& load = this->load();
  const int current = CurrentLevel();
  // One client's speed is known from when there was one.
  const Estimate& alone = loads_[0].cost;
  Level& lowest = load.levels[0];
  if (lowest.next_probe == 0 && alone.count >= kEnough &&
      alone.mean > (1 + kClose) * load.cost.mean) {
    lowest.next_probe = clock_ + kLateSeconds;
  }
  int best = -1;
  const auto rank = [&](int level) {
    return level == 0 ? -2 : level == top_ ? -1 : std::abs(level - current);
  };
  for (int level = 0; level <= top_; ++level) {
    const bool narrower = level < current;
    if (level == current || (narrower && load.stall_share < kWorthTrying)) continue;
    if (clock_ < load.levels[level].next_probe) continue;
    if (best < 0 || rank(level) < rank(best)) best = level;
  }
  return best;
}

bool WidthControl::OnStep(const StepSample& cost) {
  clock_ += cost.seconds;
  const double turnovers = Turnovers(cost);
  const int level = CurrentLevel();
  if (cost.prompt_rows > 0) {
    unsettled_steps_ = std::max(unsettled_steps_, kStepsAfterPrompt);
  } else if (unsettled_steps_ > 0) {
    --unsettled_steps_;
  } else if (cost.decodes > 0 && cost.decodes == width_) {
    Observe(cost);
    if (options_.fixed == 0) MaybeProbe();
  }
  const bool over = TurnOver(cost, turnovers);
  if (level == CurrentLevel()) return over;
  // Another width is another slice.
  slice_seconds_ = slice_turnovers_ = 0;
  slices_ += !over && Sliced();
  return Sliced();
}

void WidthControl::Observe(const StepSample& cost) {
  const double value = cost.seconds / cost.decodes;
  if (probe_.active) return ObserveProbe(value, cost.seconds, Turnovers(cost));
  Load& load = this->load();
  load.cost.Add(value);
  const double share = cost.seconds > 0 ? cost.stall_seconds / cost.seconds : 0;
  load.stall_share += (share - load.stall_share) / load.cost.count;
  if (load.cost.count < kEnough) return;
  if (load.settled == 0) load.settled = load.cost.mean;
  if (load.cost.mean > kDrift * load.settled || load.cost.mean < load.settled / kDrift) {
    load.settled = load.cost.mean;
    for (Level& level : load.levels) {
      level.losses = 0;
      level.next_probe = std::min(level.next_probe, clock_ + kLateSeconds);
    }
  }
  // Turns that take longer than anybody may wait.
  const int level = CurrentLevel();
  if (level < top_ && load.cost.mean * width_ * (Groups(width_) - 1) > options_.max_wait_seconds) {
    load.level = level + 1;
    load.cost = {};
    Settle();
  }
}

void WidthControl::ObserveProbe(double value, double seconds, double turnovers) {
  probe_.cost.Add(value);
  probe_.seconds += seconds;
  probe_.turnovers += turnovers;
  const Estimate& current = load().cost;
  const int steps = probe_.cost.count;
  const double gain = current.mean - probe_.cost.mean;
  const double noise = 2 * std::hypot(current.error(), probe_.cost.error());
  if (steps >= kHopelessSteps && -gain > (kHopeless - 1) * current.mean && -gain > noise) {
    return EndProbe(false);
  }
  const bool narrower = probe_.level < load().level;
  const double longest_wait = probe_.seconds / steps * (Groups(width_) - 1);
  if (narrower && longest_wait > options_.max_wait_seconds) return EndProbe(false);
  if (steps < kProbeSteps || (probe_.turnovers < kProbeTurnovers && steps < kLongProbeSteps &&
                              probe_.seconds < kProbeSeconds)) {
    return;
  }
  const double wanted = (narrower ? kGain : -kTie) * current.mean;
  if (std::abs(gain - wanted) > noise || steps >= kMostProbeSteps) EndProbe(gain > wanted);
}

void WidthControl::EndProbe(bool won) {
  Load& load = this->load();
  const double ratio = probe_.cost.mean / load.cost.mean;
  const int steps = probe_.cost.count;
  const double length = probe_.seconds * (steps + kUnsettledSteps / 2) / steps;
  Level& lost = load.levels[won ? std::min(load.level, top_) : probe_.level];
  // What was measured a while ago is measured again soon: things may have got
  // better for another reason.
  const bool verify = won && lost.losses == 0 && ratio > kPlain;
  lost.next_probe = clock_ + (verify ? kVerify * length
                                     : RestSeconds(length, won ? 1 / ratio : ratio, lost.losses));
  ++lost.losses;
  if (probe_.level == 0) {
    const double between = ratio < 1 + kClose && ratio > 1 / (1 + kClose)
                               ? 0
                               : RestSeconds(length, (1 + std::max(ratio, 1 / ratio)) / 2, 0) / 4;
    for (int level = 1; level < top_; ++level) {
      if (load.levels[level].losses == 0) load.levels[level].next_probe = clock_ + between;
    }
  }
  if (won) {
    load.levels[probe_.level].losses = 0;
    load.level = probe_.level == top_ ? kLevels : probe_.level;
    load.cost = probe_.cost;
  }
  load.settled = load.cost.mean;
  rest_until_ = clock_ + 2 * length;
  probe_ = {};
  Settle();
}

bool WidthControl::TurnOver(const StepSample& cost, double turnovers) {
  if (cost.decodes == 0 || width_ == 0) return false;
  const int groups = Groups(width_);
  if (groups < 2) {
    slice_seconds_ = slice_turnovers_ = 0;
    return false;
  }
  slice_seconds_ += cost.seconds;
  slice_turnovers_ += turnovers;
  const double limit = options_.max_wait_seconds / (groups - 1);
  // Slices that began at another width may have been longer.
  const bool overdue = cost.longest_wait + cost.seconds > options_.max_wait_seconds;
  const bool paid = slice_seconds_ + cost.seconds > limit || slice_turnovers_ >= kSliceTurnovers;
  if (!overdue && !paid) return false;
  slice_seconds_ = slice_turnovers_ = 0;
  ++slices_;
  return true;
}

}  // namespace hostler
