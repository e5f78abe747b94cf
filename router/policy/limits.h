// What bounds a choice: the virtual model's limits and the client's, and costs.
#pragma once

#include <span>
#include <vector>

#include "router/policy/chooser.h"

namespace hostler {

// Of each bound the stricter one.
Limits Stricter(const Limits& limits, const RouteWish& wish);

// REQUIRES: there is one.
const Candidate& Cheapest(std::span<const Candidate> candidates);

// Leaves out those that cost more than `limit`, but not the cheapest. Returns what
// those left cost at most. REQUIRES: there is one.
double LeaveOutAbove(double limit, std::vector<Candidate>* candidates);

}  // namespace hostler
