// Hashed features of a prompt: words, word pairs, characters, and what it
// looks like (length, maths, code, scripts, chat depth, tools).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "router/route_prompt.h"

namespace hostler {

struct Feature {
  uint32_t index = 0;
  float value = 0;
};

// At most this much of a prompt's text is read: its start and its end. So the
// time is bounded whatever a client sends.
inline constexpr size_t kMaxFeatureBytes = 8192;

// Features with 1 + log(count) as values, indexes < 2^hash_bits, each index
// once, in the order of first sight. `out` is cleared; its memory is reused.
void HashPrompt(const RoutePrompt& prompt, int hash_bits, std::vector<Feature>* out);

// Multiplies by idf and brings the vector to length 1.
void WeighFeatures(std::span<const float> idf, std::vector<Feature>* features);

}  // namespace hostler
