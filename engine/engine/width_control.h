// WidthControl: how many sequences decode together.
//
// With all experts resident a wider step always costs less per token. With a
// small cache it need not: sequences that share few experts push each other's
// out, and a step reads more for each token than one sequence alone would. So
// the width is chosen from measured seconds per token, among the powers of two
// and "all". A narrower width is tried where steps wait for reads and kept where
// it is faster; the sequences then take turns in slices, long enough to profit
// from their own working set, short enough that nobody waits too long.
#pragma once

#include <array>
#include <cstdint>

#include "engine/engine/step_sample.h"

namespace hostler {

// Pure and replayable: knows no time but the seconds it is fed. Allocates
// nothing. Not thread-safe.
class WidthControl {
 public:
  struct Options {
    int max_width = 64;  // that a step can take
    int fixed = 0;       // this width, whatever it costs; 0: chosen
    // Between two steps of a sequence that could go on: slices are cut so that
    // all have had their turn by then, or a third later where another width is
    // tried meanwhile.
    double max_wait_seconds = 20;
  };

  explicit WidthControl(const Options& options);

  // How many of the `ready` sequences decode in the next step. To be called
  // once before each step.
  int Width(int ready);

  // That step is done. True: the slice is over, and those that decoded go behind
  // the others.
  bool OnStep(const StepSample& cost);

  int width() const { return width_; }         // of the last step
  uint64_t slices() const { return slices_; }  // that are over
  uint64_t probes() const { return probes_; }  // times that another width was tried

 private:
  static constexpr int kLevels = 17;  // level l is a width of 1 << l

  // A mean of seconds per token that forgets, and its spread.
  struct Estimate {
    void Add(double value);
    double error() const;  // the mean's standard error

    double mean = 0;
    double variance = 0;
    int count = 0;
  };

  struct Level {
    double next_probe = 0;  // on clock_
    int losses = 0;         // probes lost in a row
  };

  // What is known of running so many sequences: between two powers of two.
  struct Load {
    int level = kLevels;  // in force; at or above the load's own: all decode together
    Estimate cost;        // of that level
    double settled = 0;   // cost.mean when widths were last compared
    double stall_share = 0;
    std::array<Level, kLevels> levels = {};
    bool begun = false;
  };

  struct Probe {
    bool active = false;
    int level = 0;
    Estimate cost;
    double seconds = 0;
    double turnovers = 0;  // of the cache, by bytes read
  };

  static int LevelOf(int width);
  Load& load() { return loads_[top_]; }
  int CurrentLevel() const;  // in force, a probe's included
  bool Sliced() const { return width_ < ready_; }
  int Groups(int width) const { return (ready_ + width - 1) / width; }

  void SetReady(int ready);
  void Begin(Load& load);
  void MaybeProbe();
  int NextProbe();
  void Observe(const StepSample& cost);
  void ObserveProbe(double value, double seconds, double turnovers);
  void EndProbe(bool won);
  void Settle();  // the next steps tell nothing, as the width has just changed
  bool TurnOver(const StepSample& cost, double turnovers);

  const Options options_;
  std::array<Load, kLevels> loads_ = {};
  int top_ = 0;  // level of the load
  int ready_ = 0;
  int width_ = 0;
  Probe probe_;
  double clock_ = 0;
  double rest_until_ = 0;  // no probe before
  int unsettled_steps_ = 0;
  double slice_seconds_ = 0;
  double slice_turnovers_ = 0;
  uint64_t slices_ = 0;
  uint64_t probes_ = 0;
};

}  // namespace hostler
