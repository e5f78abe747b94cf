// Rotary frequencies, with the ways of stretching them that models use.
#pragma once

#include "engine/compute/backend.h"
#include "engine/model/config_reader.h"

namespace hostler {

// The frequencies for `dims` turned dimensions: theta^(-2i/dims), changed as
// `scaling` (config.json's rope_scaling; null: not at all) says: linear,
// llama3, yarn (Peng et al. 2023), longrope, or dynamic, which leaves all that
// fits max_positions as it is. Problems go to `reader`.
// `max_positions` and the reader's keys give what the scaling leaves out.
RopeSpec MakeRope(int dims, double theta, const nlohmann::json* scaling, int max_positions,
                  ConfigReader& reader);

// YaRN's 0.1 · mscale · ln(factor) + 1, or 1 for a factor up to 1.
double YarnScale(double factor, double mscale);

}  // namespace hostler
