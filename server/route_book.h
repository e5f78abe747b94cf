// RouteBook: what becomes of decisions: recent ones for feedback, the decision
// log, metrics.
#pragma once

#include <cstdio>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "engine/base/json.h"
#include "router/policy.h"
#include "router/router.h"
#include "server/route_metrics.h"

namespace hostler {

// An answer that no client saw; see ShadowTraffic.
struct ShadowAnswer {
  std::string id, real_id;
  Decision decision;
  RouteOutcome outcome, real_outcome;
  std::string prompt;  // PromptForLog's
  std::string answer, real_answer;
};

// Thread-safe. `router` and `metrics` must outlive it.
class RouteBook {
 public:
  // Answers that feedback may name; older ones are forgotten.
  static constexpr size_t kRecent = 16384;

  RouteBook(const Router* router, RouteMetrics* metrics) : router_(router), metrics_(metrics) {}
  ~RouteBook();
  RouteBook(const RouteBook&) = delete;
  RouteBook& operator=(const RouteBook&) = delete;

  // Appends one JSON object a line from now on: {"type": "decision"} when a
  // request is over, {"type": "feedback"} when it is judged. `with_text`: prompts
  // as they are, else a checksum. Errors: when the file cannot be opened.
  // REQUIRES: before the first decision.
  absl::Status OpenLog(const std::string& path, bool with_text);

  // A virtual model's decision is over. `prompt` is PromptForLog's.
  void Finished(const std::string& id, const Decision& decision, const RouteOutcome& outcome,
                const std::string& prompt);

  // Into the log as {"type": "shadow"}; feedback may name it.
  void ShadowFinished(const ShadowAnswer& shadow);

  // Whether texts go into the log.
  bool logs_text() const { return log_ != nullptr && with_text_; }

  // What of the request's last message goes into the log: the text or its checksum;
  // "" without a log.
  std::string PromptForLog(const GenerateRequest& request) const;

  // How good the answer with this id was, 0 … 1: for the policy, the log and the
  // metrics. Errors: NotFound for an id that is not known (any more) or was judged.
  absl::Status Feedback(const std::string& id, double score);

 private:
  struct Recent {
    std::string target;
    Decision decision;
    std::list<std::string>::iterator place;  // in order_
  };
  void WriteLine(const Json& line);
  void Remember(const std::string& id, const std::string& target, const Decision& decision);

  const Router* const router_;
  RouteMetrics* const metrics_;
  std::mutex mutex_;  // guards recent_ and order_
  std::unordered_map<std::string, Recent> recent_;
  std::list<std::string> order_;  // recent_'s ids, the oldest first
  std::mutex log_mutex_;          // held while a line is written
  std::FILE* log_ = nullptr;
  bool with_text_ = false;
};

}  // namespace hostler
