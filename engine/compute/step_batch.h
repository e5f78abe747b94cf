// What one engine step computes: rows (tokens) of several sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hostler {

struct StepBatch {
  // One sequence's consecutive rows: a prompt chunk, or a single decode token.
  struct Sequence {
    int first_row = 0;
    int rows = 0;
    int first_position = 0;
    int prompt_tokens = 0;  // of the whole prompt, computed or not
    // KV blocks of positions [0, first_position + rows), in order.
    std::span<const int32_t> blocks = {};
    int32_t state = -1;  // its slot of recurrent state, if the model has any
  };

  std::vector<int32_t> tokens;     // [rows]
  std::vector<int32_t> positions;  // [rows]
  std::vector<Sequence> sequences;
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending

  int rows() const { return static_cast<int>(tokens.size()); }
};

}  // namespace hostler
