// LogitCandidate: one of a row's strongest logits.
#pragma once

#include <cstdint>

namespace hostler {

// Of equal logits the one with the lower id is stronger. NaN is stronger than all.
struct LogitCandidate {
  float logit = 0;
  int32_t id = 0;
};

}  // namespace hostler
