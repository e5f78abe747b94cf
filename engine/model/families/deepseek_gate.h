// DeepSeek's MoE layers, which other families have taken over.
#pragma once

#include "engine/model/families/common.h"

namespace hostler {

// Experts, shared experts and leading dense layers.
void ReadDeepseekMoe(FamilyConfig* family);

// V3's gate (DeepSeek-V3 Technical Report, section 2.1.2): sigmoids, chosen
// with a correction bias from the best groups, normalised and scaled.
void ReadDeepseekV3Gate(FamilyConfig* family);

}  // namespace hostler
