// RouteState: what virtual models have spent and learned, kept in a file.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "router/policy/scored_policy.h"
#include "server/route_metrics.h"

namespace hostler {

// The file: "hostler-route-state VERSION CHECKSUM", a newline, a JSON object with
// ScoredRoutingPolicy::State() by name. Written anew, and renamed to its place, every kPeriod_s and
// at the end, if anything has changed.
class RouteState {
 public:
  static constexpr int kPeriod_s = 10;

  // `metrics` and the policies must outlive it.
  RouteState(std::string path, std::vector<std::pair<std::string, ScoredRoutingPolicy*>> policies,
             RouteMetrics* metrics);
  ~RouteState();
  RouteState(const RouteState&) = delete;
  RouteState& operator=(const RouteState&) = delete;

  // Takes what the file tells; a missing one tells nothing. Errors: DataLoss for a damaged file,
  // which is moved to PATH.bad; InvalidArgument naming the virtual models that could not take
  // theirs. They begin anew.
  absl::Status Load();
  // Begins to write.
  void Start();
  // Errors: Unavailable.
  absl::Status Save();

 private:
  void Run();

  const std::string path_;
  const std::vector<std::pair<std::string, ScoredRoutingPolicy*>> policies_;
  RouteMetrics* const metrics_;
  std::string saved_;  // as it is in the file; only by who calls Load and Save
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace hostler
