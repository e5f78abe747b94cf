// When to move memory between KV blocks and expert slots: a pure object fed
// with what each step saw.
#pragma once

#include <cstdint>
#include <optional>

namespace hostler {

// A block that no sequence has come near for a while is worth nothing, an
// expert that misses is worth a read: spare blocks go to the experts. A
// sequence that cannot run for want of blocks is worth more than the experts
// least used: blocks come back, a quarter at a time.
class SplitControl {
 public:
  struct Step {
    int limit = 0;  // blocks that KV has
    int used = 0;
    bool short_of_blocks = false;  // a sequence waited or was preempted for blocks
    bool missing_experts = false;
  };

  SplitControl(int least_blocks, int most_blocks) : least_(least_blocks), most_(most_blocks) {}

  // The blocks that KV should have, when that is to change.
  std::optional<int> OnStep(const Step& step);

 private:
  int least_, most_;
  int steps_ = 0;        // of the window
  int peak_ = 0;         // blocks used, most in the window
  int last_peak_ = -1;   // in the window before; -1: there was none
  int short_steps_ = 0;  // of the window
  int missing_steps_ = 0;
};

}  // namespace hostler
