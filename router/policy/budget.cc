#include "router/policy/budget.h"

#include <algorithm>
#include <limits>

namespace hostler {

void Budgets::StartDay(int64_t day) {
  if (day <= day_) return;
  day_ = day;
  spent_ = others_spent_ = 0;
  payers_.clear();
}

double& Budgets::Spent(uint64_t payer) {
  const auto found = payers_.find(payer);
  if (found != payers_.end()) return found->second;
  if (payers_.size() >= kMaxPayers) return others_spent_;
  return payers_[payer];
}

double Budgets::Left(uint64_t payer, int64_t day) {
  double left = std::numeric_limits<double>::infinity();
  if (!bounded()) return left;
  std::lock_guard lock(mutex_);
  StartDay(day);
  if (payer_day_.has_value()) left = *payer_day_ - Spent(payer);
  if (all_day_.has_value()) left = std::min(left, *all_day_ - spent_);
  return std::max(left, 0.0);
}

void Budgets::Reserve(uint64_t payer, int64_t day, double usd) {
  if (!bounded()) return;
  std::lock_guard lock(mutex_);
  StartDay(day);
  spent_ += usd;
  if (payer_day_.has_value()) Spent(payer) += usd;
}

void Budgets::Settle(uint64_t payer, int64_t day, double reserved, double usd) {
  if (!bounded()) return;
  std::lock_guard lock(mutex_);
  StartDay(day);
  // What was reserved yesterday was forgotten with it.
  if (day < day_) return;
  spent_ = std::max(0.0, spent_ + usd - reserved);
  if (!payer_day_.has_value()) return;
  double& own = Spent(payer);
  own = std::max(0.0, own + usd - reserved);
}

}  // namespace hostler
