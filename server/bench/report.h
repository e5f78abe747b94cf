// What became of the requests of a load run, and its summary.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace hostler {

// One request as its client saw it. Times are seconds since the run began.
struct Outcome {
  bool ok = false;
  std::string failure;        // its kind: "http 429", "connect: Connection refused"
  std::string detail;         // what the server said
  bool short_answer = false;  // fewer tokens than asked for
  double due_s = 0;           // when it should have been sent
  double sent_s = 0;          // when sending began
  double first_token_s = 0;
  double end_s = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;
  int cached_prompt_tokens = 0;
  std::vector<float> gaps_s;  // between events that carry tokens
};

struct LoadSummaryOptions {
  bool open_loop = false;
  double offered_rate = 0;          // requests/s, of an open loop
  double slo_ttft_ms = 0;           // 0: no such limit
  double slo_itl_ms = 0;            // of a request's mean time per output token
  nlohmann::ordered_json settings;  // repeated in the report: url, speed, scale…
};

struct Distribution {
  double mean = 0, p50 = 0, p90 = 0, p99 = 0;
};

struct LoadSummary {
  LoadSummaryOptions options;
  double wall_s = 0;  // first send to last end
  int requests = 0;
  int completed = 0;
  std::map<std::string, int> failures;                 // by kind
  std::map<std::string, std::string> failure_details;  // the first of each kind
  int short_answers = 0;                               // completed with fewer tokens than asked for
  Distribution ttft_ms, itl_ms, e2e_ms;                // of completed requests
  double prompt_tokens_per_s = 0;                      // completed requests' tokens over wall_s
  double output_tokens_per_s = 0;
  double achieved_rate = 0;        // requests sent over the time of sending
  double lateness_p99_ms = 0;      // of sending, open loop
  double cached_prompt_share = 0;  // of the prompts' tokens, as the server says
  int good = 0;                    // met the SLO
  double goodput = 0;              // good requests/s
};

// Linear interpolation between closest ranks; 0 for no values. `p` in [0, 1].
// Reorders `values`.
double Percentile(std::vector<double>* values, double p);

LoadSummary Summarize(const std::vector<Outcome>& outcomes, LoadSummaryOptions options);

nlohmann::ordered_json ToJson(const LoadSummary& summary);
std::string ToTable(const LoadSummary& summary);

// A run whose sender was later than this at p99 says nothing of the server.
inline constexpr double kMaxLateness_ms = 50;

}  // namespace hostler
