// Whether reading ahead pays, judged by what clients see: seconds per token.
// Like a policy, a pure object fed with events.
#pragma once

#include <cstdint>

namespace hostler {

// What one engine step did.
struct StepCost {
  int decode_rows = 0;  // rows of sequences that generate
  int prompt_rows = 0;
  double seconds = 0;
};

// Compares two demands on a guess's chance by turns of a few steps each, until
// one is seen to be faster, keeps the winner for a while, and tries again: the
// longer apart the oftener the winner wins. "Read nothing" is one of the
// demands, and wins what is undecided. Not thread-safe.
class PrefetchGovernor {
 public:
  // No guess has this chance.
  static constexpr float kNever = 2;

  PrefetchGovernor();

  // What a guess's chance must be at least, in the coming step.
  float least_chance() const;

  // `misses`: experts that the step did not find resident. Steps without
  // misses, with prompts, or with another number of rows than the turn's other
  // steps are not compared.
  void OnStep(const StepCost& cost, uint64_t misses);

  struct Report {
    float least_chance = kNever;  // the winner so far
    int trials = 0;               // comparisons ended
    // Seconds per step of the last trial's challenger over the winner's before
    // it, minus 1.
    double last_difference = 0;
  };
  Report report() const { return {Chance(winner_), trials_, last_difference_}; }

 private:
  // The sums of ln(challenger's seconds / winner's) over pairs of turns.
  struct Ratios {
    int pairs = 0;
    double sum = 0, squares = 0;
  };
  enum class Verdict { kOpen, kWinner, kChallenger };

  static float Chance(int level);
  int Level() const;
  void EndPair();
  Verdict Judge() const;
  void EndTrial(bool challenger_won);
  int NextChallenger() const;

  int winner_ = 2;      // levels; 0 reads nothing
  int challenger_ = 0;  // in a trial
  int rest_;            // steps until the next trial; 0: one is on
  int next_rest_;
  int quiet_ = 0;  // steps without a miss, in a row
  int trials_ = 0;
  double last_difference_ = 0;

  // The pair of turns: which goes first changes from pair to pair.
  int rows_ = 0;
  int steps_ = 0;  // of the turn
  int turn_ = 0;   // 0, 1
  double seconds_[2] = {};
  Ratios ratios_;
};

}  // namespace hostler
