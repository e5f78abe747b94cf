#include "cache/hybrid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>

namespace hostler {
namespace {

constexpr double kWeight = 1.0 / 8;  // of a new measurement
constexpr double kMostChange = 4;    // of one measurement over the estimate
constexpr double kForget = 0.99;     // of what is not tried, for each request
constexpr double kWillDo = 2;        // times a copy's price
constexpr double kLinkStart = 1 / 12e9, kHostStart = 1 / 20e9;

int ClassOf(int rows, int classes) {
  return std::min<int>(std::bit_width(static_cast<unsigned>(std::max(rows, 1))), classes) - 1;
}

// In ratios, so that up and down are alike.
double Follow(double estimate, double measured) {
  return estimate *
         std::pow(std::clamp(measured / estimate, 1 / kMostChange, kMostChange), kWeight);
}

}  // namespace

void HybridPlanner::OnCopy(uint64_t bytes, double seconds) {
  if (bytes > 0 && seconds > 0) link_ = Follow(link_, seconds / static_cast<double>(bytes));
}

void HybridPlanner::OnHost(int rows, uint64_t bytes, double seconds) {
  if (rows <= 0 || bytes == 0 || seconds <= 0) return;
  double& price = host_[ClassOf(rows, kClasses)];
  const double measured = seconds / (static_cast<double>(bytes) * rows);
  price = price == 0 ? measured : Follow(price, measured);
}

double HybridPlanner::HostSeconds(int rows, uint64_t bytes) const {
  const int own = ClassOf(rows, kClasses);
  double price = host_[own];
  // Rows get cheaper the more there are: fewer rows' price is at least enough.
  for (int c = own; price == 0 && c-- > 0;) price = host_[c];
  for (int c = own; price == 0 && ++c < kClasses;) price = host_[c];
  if (price == 0) price = kHostStart;
  return price * static_cast<double>(bytes) * rows;
}

bool HybridPlanner::HostWillDo(int rows, uint64_t bytes) const {
  return mode_ == Hybrid::kAuto && HostSeconds(rows, bytes) <= kWillDo * CopySeconds(bytes);
}

void HybridPlanner::Plan(std::span<Missing> missing) {
  for (Missing& expert : missing) expert.on_host = mode_ == Hybrid::kAlways;
  if (mode_ != Hybrid::kAuto || missing.empty()) return;
  std::sort(missing.begin(), missing.end(), [](const Missing& a, const Missing& b) {
    return std::tie(a.rows, a.expert) < std::tie(b.rows, b.expert);
  });
  double host = 0, link = 0;
  size_t first = 0, last = missing.size();
  while (first < last) {
    const double with_host = host + HostSeconds(missing[first].rows, missing[first].bytes);
    const double with_link = link + CopySeconds(missing[last - 1].bytes);
    if (with_host <= with_link) {
      missing[first++].on_host = true;
      host = with_host;
    } else {
      --last;
      link = with_link;
    }
  }
  // What looks dear is never tried, and may have become cheaper.
  if (first == 0) {
    for (double& price : host_) {
      if (price > kHostStart) price = std::max(price * kForget, kHostStart);
    }
  } else if (first == missing.size() && link_ > kLinkStart) {
    link_ = std::max(link_ * kForget, kLinkStart);
  }
}

}  // namespace hostler
