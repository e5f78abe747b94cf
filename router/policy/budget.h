// Budgets: what requests may cost, by payer and day.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace hostler {

// Days since 1970, UTC.
int64_t Today();
int SecondsLeftToday();

// USD. Thread-safe. A day's spending is forgotten when another day's is asked for.
class Budgets {
 public:
  // Unset: not bounded.
  Budgets(std::optional<double> payer_day, std::optional<double> day)
      : payer_day_(payer_day), all_day_(day) {}

  bool bounded() const { return payer_day_.has_value() || all_day_.has_value(); }

  // `payer`, here and below: unset for what no client asked for, and only the day pays.

  // What `payer` may still spend on `day`; infinite when not bounded. What runs is
  // counted with what it is expected to cost.
  double Left(std::optional<uint64_t> payer, int64_t day);
  void Reserve(std::optional<uint64_t> payer, int64_t day, double usd);
  // A request is over that had `reserved` and did cost `usd`.
  void Settle(std::optional<uint64_t> payer, int64_t day, double reserved, double usd);
  // Reserve, if as much is left.
  bool TryReserve(std::optional<uint64_t> payer, int64_t day, double usd);

  // What was spent on the last day that was asked for, to be kept over a restart. What
  // runs counts as spent.
  nlohmann::ordered_json State();
  // Errors: InvalidArgument for what is no State(); nothing has changed then.
  absl::Status Restore(const nlohmann::ordered_json& state);

 private:
  // Payers beyond these share one budget, so that made-up ones gain nothing.
  static constexpr size_t kMaxPayers = 65536;

  // REQUIRES, of these: mutex_ is held.
  double LeftNow(std::optional<uint64_t> payer);
  void Add(std::optional<uint64_t> payer, double usd);
  void StartDay(int64_t day);
  double& Spent(uint64_t payer);

  const std::optional<double> payer_day_, all_day_;
  std::mutex mutex_;  // guards all below
  int64_t day_ = 0;
  double spent_ = 0;
  double others_spent_ = 0;
  std::unordered_map<uint64_t, double> payers_;
};

}  // namespace hostler
