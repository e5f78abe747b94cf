#include "router/policy/budget.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

namespace hostler {
namespace {

constexpr int kSecondsOfDay = 86400;

int64_t SecondsSinceEpoch() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

constexpr double kMaxUsd = 1e12;

bool IsUsd(const nlohmann::ordered_json& json) {
  return json.is_number() && json.get<double>() >= 0 && json.get<double>() <= kMaxUsd;
}

}  // namespace

int64_t Today() { return SecondsSinceEpoch() / kSecondsOfDay; }

int SecondsLeftToday() { return int(kSecondsOfDay - SecondsSinceEpoch() % kSecondsOfDay); }

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

double Budgets::LeftNow(std::optional<uint64_t> payer) {
  double left = std::numeric_limits<double>::infinity();
  if (payer_day_.has_value() && payer.has_value()) left = *payer_day_ - Spent(*payer);
  if (all_day_.has_value()) left = std::min(left, *all_day_ - spent_);
  return std::max(left, 0.0);
}

void Budgets::Add(std::optional<uint64_t> payer, double usd) {
  spent_ = std::max(0.0, spent_ + usd);
  if (!payer_day_.has_value() || !payer.has_value()) return;
  double& own = Spent(*payer);
  own = std::max(0.0, own + usd);
}

double Budgets::Left(std::optional<uint64_t> payer, int64_t day) {
  if (!bounded()) return std::numeric_limits<double>::infinity();
  std::lock_guard lock(mutex_);
  StartDay(day);
  return LeftNow(payer);
}

void Budgets::Reserve(std::optional<uint64_t> payer, int64_t day, double usd) {
  if (!bounded()) return;
  std::lock_guard lock(mutex_);
  StartDay(day);
  Add(payer, usd);
}

bool Budgets::TryReserve(std::optional<uint64_t> payer, int64_t day, double usd) {
  if (!bounded()) return true;
  std::lock_guard lock(mutex_);
  StartDay(day);
  if (LeftNow(payer) < usd) return false;
  Add(payer, usd);
  return true;
}

void Budgets::Settle(std::optional<uint64_t> payer, int64_t day, double reserved, double usd) {
  if (!bounded()) return;
  std::lock_guard lock(mutex_);
  StartDay(day);
  // What was reserved yesterday was forgotten with it.
  if (day < day_) return;
  Add(payer, usd - reserved);
}

nlohmann::ordered_json Budgets::State() {
  std::lock_guard lock(mutex_);
  nlohmann::ordered_json payers = nlohmann::ordered_json::array();
  for (const auto& [payer, usd] : payers_) payers.push_back({payer, usd});
  return {{"day", day_}, {"spent", spent_}, {"others", others_spent_}, {"payers", payers}};
}

absl::Status Budgets::Restore(const nlohmann::ordered_json& state) {
  const absl::Status bad = absl::InvalidArgumentError("the state of its budgets makes no sense");
  if (!state.is_object()) return bad;
  const nlohmann::ordered_json none;
  const auto day = state.value("day", none), spent = state.value("spent", none);
  const auto others = state.value("others", none), payers = state.value("payers", none);
  if (!day.is_number_unsigned() || !IsUsd(spent) || !IsUsd(others) || !payers.is_array() ||
      payers.size() > kMaxPayers) {
    return bad;
  }
  std::unordered_map<uint64_t, double> by_payer;
  for (const auto& each : payers) {
    if (!each.is_array() || each.size() != 2 || !each[0].is_number_unsigned() || !IsUsd(each[1])) {
      return bad;
    }
    by_payer[each[0].get<uint64_t>()] = each[1].get<double>();
  }
  // A day to come would never end.
  if (day.get<int64_t>() < 0 || day.get<int64_t>() > Today()) return bad;
  std::lock_guard lock(mutex_);
  day_ = day.get<int64_t>();
  spent_ = spent.get<double>();
  others_spent_ = others.get<double>();
  payers_ = std::move(by_payer);
  return absl::OkStatus();
}

}  // namespace hostler
