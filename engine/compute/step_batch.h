// What one engine step computes: rows (tokens) of several sequences.
#pragma once

#include <algorithm>
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

  std::vector<int32_t> tokens;      // [rows]
  std::vector<int32_t> positions;   // [rows]
  std::vector<Sequence> sequences;  // those that generate first
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending
  // [logit_rows] or empty: how many of a row's strongest logits are enough; 0: all are
  // wanted.
  std::vector<int32_t> strongest;

  int rows() const { return static_cast<int>(tokens.size()); }
  // Of `sequences`, the first ones, which generate.
  int decodes() const {
    const auto prompt = std::find_if(sequences.begin(), sequences.end(), [](const Sequence& s) {
      return s.rows != 1 || s.first_position < s.prompt_tokens;
    });
    return static_cast<int>(prompt - sequences.begin());
  }
};

}  // namespace hostler
