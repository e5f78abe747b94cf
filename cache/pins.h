// Pin lists: experts that an operator wants to stay in memory.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"

namespace hostler {

// A line names one expert or a range, the layer (of MoE layers, from 0) first:
//
//   # hot in chats
//   0 17
//   3 8-15
//
// `experts`: of each layer. Each expert is returned once, in order. Errors:
// InvalidArgument naming the line.
absl::StatusOr<std::vector<ExpertKey>> ParsePins(std::string_view text,
                                                 std::span<const int> experts);

}  // namespace hostler
