#include "server/bench/report.h"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"

namespace hostler {
namespace {

Distribution Describe(std::vector<double> values) {
  Distribution d;
  if (values.empty()) return d;
  double sum = 0;
  for (double v : values) sum += v;
  d.mean = sum / values.size();
  d.p50 = Percentile(&values, 0.50);
  d.p90 = Percentile(&values, 0.90);
  d.p99 = Percentile(&values, 0.99);
  return d;
}

bool MeetsSlo(const Outcome& o, const LoadSummaryOptions& options) {
  if (!o.ok) return false;
  if (options.slo_ttft_ms > 0 && (o.first_token_s - o.sent_s) * 1e3 > options.slo_ttft_ms) {
    return false;
  }
  if (options.slo_itl_ms > 0 && o.output_tokens > 1) {
    const double per_token_ms = (o.end_s - o.first_token_s) * 1e3 / (o.output_tokens - 1);
    if (per_token_ms > options.slo_itl_ms) return false;
  }
  return true;
}

nlohmann::ordered_json ToJson(const Distribution& d) {
  return {{"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90}, {"p99", d.p99}};
}

bool HasSlo(const LoadSummaryOptions& o) { return o.slo_ttft_ms > 0 || o.slo_itl_ms > 0; }

}  // namespace

double Percentile(std::vector<double>* values, double p) {
  if (values->empty()) return 0;
  const double rank = std::clamp(p, 0.0, 1.0) * (values->size() - 1);
  const size_t below = static_cast<size_t>(rank);
  std::nth_element(values->begin(), values->begin() + below, values->end());
  const double low = (*values)[below];
  if (below + 1 == values->size()) return low;
  const double high = *std::min_element(values->begin() + below + 1, values->end());
  return low + (high - low) * (rank - below);
}

LoadSummary Summarize(const std::vector<Outcome>& outcomes, LoadSummaryOptions options) {
  LoadSummary s;
  s.options = std::move(options);
  s.requests = static_cast<int>(outcomes.size());
  std::vector<double> ttft, itl, e2e, lateness;
  double first_sent = 0, last_sent = 0, last_end = 0;
  int64_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  for (const Outcome& o : outcomes) {
    first_sent = &o == &outcomes.front() ? o.sent_s : std::min(first_sent, o.sent_s);
    last_sent = std::max(last_sent, o.sent_s);
    last_end = std::max(last_end, o.end_s);
    lateness.push_back((o.sent_s - o.due_s) * 1e3);
    if (!o.ok) {
      ++s.failures[o.failure];
      s.failure_details.emplace(o.failure, o.detail);
      continue;
    }
    ++s.completed;
    s.short_answers += o.short_answer;
    ttft.push_back((o.first_token_s - o.sent_s) * 1e3);
    e2e.push_back((o.end_s - o.sent_s) * 1e3);
    for (float gap : o.gaps_s) itl.push_back(gap * 1e3);
    prompt_tokens += o.prompt_tokens;
    output_tokens += o.output_tokens;
    cached_tokens += o.cached_prompt_tokens;
    if (MeetsSlo(o, s.options)) ++s.good;
  }
  s.wall_s = last_end - first_sent;
  s.ttft_ms = Describe(std::move(ttft));
  s.itl_ms = Describe(std::move(itl));
  s.e2e_ms = Describe(std::move(e2e));
  if (s.options.open_loop) s.lateness_p99_ms = Percentile(&lateness, 0.99);
  if (s.wall_s > 0) {
    s.prompt_tokens_per_s = prompt_tokens / s.wall_s;
    s.output_tokens_per_s = output_tokens / s.wall_s;
    s.goodput = s.good / s.wall_s;
  }
  // n requests are n - 1 gaps.
  const double sending_s = s.options.open_loop ? last_sent - first_sent : s.wall_s;
  const int sends = s.options.open_loop ? s.requests - 1 : s.requests;
  if (sending_s > 0) s.achieved_rate = sends / sending_s;
  if (prompt_tokens > 0) s.cached_prompt_share = double(cached_tokens) / prompt_tokens;
  return s;
}

nlohmann::ordered_json ToJson(const LoadSummary& s) {
  nlohmann::ordered_json json = s.options.settings;
  json["requests"] = s.requests;
  json["completed"] = s.completed;
  json["failed"] = s.requests - s.completed;
  json["failures"] = s.failures;
  json["failure_details"] = s.failure_details;
  json["short_answers"] = s.short_answers;
  json["wall_s"] = s.wall_s;
  json["ttft_ms"] = ToJson(s.ttft_ms);
  json["itl_ms"] = ToJson(s.itl_ms);
  json["e2e_ms"] = ToJson(s.e2e_ms);
  json["prompt_tokens_per_s"] = s.prompt_tokens_per_s;
  json["output_tokens_per_s"] = s.output_tokens_per_s;
  json["cached_prompt_share"] = s.cached_prompt_share;
  json["achieved_rate"] = s.achieved_rate;
  if (s.options.open_loop) {
    json["offered_rate"] = s.options.offered_rate;
    json["sender_lateness_p99_ms"] = s.lateness_p99_ms;
    json["sender_on_time"] = s.lateness_p99_ms <= kMaxLateness_ms;
  }
  if (HasSlo(s.options)) {
    json["slo_ttft_ms"] = s.options.slo_ttft_ms;
    json["slo_itl_ms"] = s.options.slo_itl_ms;
    json["goodput"] = s.goodput;
    json["slo_share"] = s.requests > 0 ? double(s.good) / s.requests : 0.0;
  }
  return json;
}

std::string ToTable(const LoadSummary& s) {
  std::string out;
  for (const auto& [key, value] : s.options.settings.items()) {
    out += fmt::format("{}{}={}", out.empty() ? "" : " ", key,
                       value.is_string() ? value.get<std::string>() : value.dump());
  }
  out += fmt::format("\n{} requests in {:.2f} s: {} completed, {} failed\n", s.requests, s.wall_s,
                     s.completed, s.requests - s.completed);
  for (const auto& [kind, count] : s.failures) {
    const std::string& detail = s.failure_details.at(kind);
    out += fmt::format("  {} × {}{}{}\n", count, kind, detail.empty() ? "" : ": ", detail);
  }
  if (s.short_answers > 0) {
    out += fmt::format("  {} answers were shorter than asked for\n", s.short_answers);
  }
  out += fmt::format("{:<24}{:>10}{:>10}{:>10}{:>10}\n", "", "mean", "p50", "p90", "p99");
  auto line = [&out](const char* name, const Distribution& d) {
    out += fmt::format("{:<24}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}\n", name, d.mean, d.p50, d.p90,
                       d.p99);
  };
  line("time to first token, ms", s.ttft_ms);
  line("inter-token, ms", s.itl_ms);
  line("end to end, ms", s.e2e_ms);
  out += fmt::format("prompt tokens/s {:.1f}, output tokens/s {:.1f}", s.prompt_tokens_per_s,
                     s.output_tokens_per_s);
  if (s.cached_prompt_share > 0) {
    out += fmt::format(", {:.1f}% of prompt tokens from the prefix cache",
                       100 * s.cached_prompt_share);
  }
  if (s.options.open_loop) {
    out += fmt::format("\nrequests/s {:.2f} sent of {:.2f} offered, sender late {:.1f} ms at p99\n",
                       s.achieved_rate, s.options.offered_rate, s.lateness_p99_ms);
  } else {
    out += fmt::format("\nrequests/s {:.2f}\n", s.achieved_rate);
  }
  if (HasSlo(s.options)) {
    out += fmt::format("goodput {:.2f} requests/s ({:.1f}% met the SLO)\n", s.goodput,
                       s.requests > 0 ? 100.0 * s.good / s.requests : 0.0);
  }
  return out;
}

}  // namespace hostler
