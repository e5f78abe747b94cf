// hostler replay: what a cache policy or a predictor would have made of a trace.

#include "cache/replay.h"

#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/commands/trace_commands.h"

namespace hostler {
namespace {

struct ReplayFlags {
  std::vector<std::string> traces;
  std::vector<std::string> capacities = {"5%", "10%", "20%"};
  std::vector<std::string> policies = {"default",          "lru",   "lfru", "ema",
                                       "forward_distance", "belady"};
  int sequences = 1;
  bool cold = false;
  bool json = false;

  // Timed.
  std::vector<std::string> predictors;
  std::string bandwidth = "2GiB";
  double compute_ms = 50;
  int ahead = 1;
  double least_chance = 0.3;
};

struct Row {
  std::string trace;
  std::string capacity;
  int64_t experts = 0;
  std::string policy;
  std::string predictor;
  ReplayTimes times;  // only the counts without a predictor
};

// "10%" of all experts, or their number.
absl::StatusOr<int64_t> ParseCapacity(const std::string& text, const PolicyShape& shape) {
  std::string_view number = text;
  const bool percent = number.ends_with('%');
  if (percent) number.remove_suffix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  const double all = static_cast<double>(shape.layers) * shape.experts;
  if (error != std::errc() || end != number.data() + number.size() || !(value >= 0) ||
      value > (percent ? 100 : all)) {
    return absl::InvalidArgumentError(fmt::format(
        "--capacity: \"{}\" is neither a percentage nor a number of the {} experts", text, all));
  }
  return percent ? CapacityOf(value / 100, shape) : static_cast<int64_t>(value);
}

absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakePolicy(const std::string& name,
                                                           const RequestList& requests, bool cold) {
  if (name == "belady" || name == "belady_bypass") {
    return NewBeladyPolicy(requests, cold, name == "belady_bypass");
  }
  absl::StatusOr<std::unique_ptr<EvictionPolicy>> policy =
      NewEvictionPolicy(name, requests.shape());
  if (policy.ok()) return policy;
  return absl::InvalidArgumentError(fmt::format("{}; replay also has belady, belady_bypass",
                                                std::string(policy.status().message())));
}

absl::StatusOr<ReplayTiming> MakeTiming(const ReplayFlags& flags, const TraceHeader& header) {
  if (header.expert_bytes.empty()) {
    return absl::InvalidArgumentError("--predictor needs a trace with expert_bytes in its header");
  }
  HOSTLER_ASSIGN_OR_RETURN(const uint64_t bandwidth, ParseBytes(flags.bandwidth));
  if (bandwidth == 0) return absl::InvalidArgumentError("--bandwidth is 0");
  ReplayTiming timing;
  timing.bandwidth_bytes_s = static_cast<double>(bandwidth);
  timing.compute_s = flags.compute_ms * 1e-3;
  timing.expert_bytes = header.expert_bytes;
  timing.ahead = flags.ahead;
  timing.least_chance = flags.least_chance;
  return timing;
}

absl::Status RunTimed(const ReplayFlags& flags, const TraceHeader& header,
                      const RequestList& requests, const std::string& predictor_name, Row* row) {
  HOSTLER_ASSIGN_OR_RETURN(const ReplayTiming timing, MakeTiming(flags, header));
  HOSTLER_ASSIGN_OR_RETURN(auto policy, MakePolicy(row->policy, requests, flags.cold));
  Prediction prediction = Prediction::kPredictor;
  std::unique_ptr<ExpertPredictor> predictor;
  if (predictor_name == "none") {
    prediction = Prediction::kNone;
  } else if (predictor_name == "perfect") {
    prediction = Prediction::kPerfect;
  } else {
    HOSTLER_ASSIGN_OR_RETURN(predictor, NewExpertPredictor(predictor_name, requests.shape()));
  }
  row->predictor = predictor_name;
  row->times = ReplayTimed(requests, {row->experts, flags.cold, row->policy == "belady_bypass"},
                           timing, policy.get(), prediction, predictor.get());
  return absl::OkStatus();
}

absl::Status ReplayTrace(const ReplayFlags& flags, const std::string& path,
                         std::vector<Row>* rows) {
  HOSTLER_ASSIGN_OR_RETURN(const ExpertTrace trace, ReadExpertTrace(path));
  const RequestList requests(trace, flags.sequences);
  for (const std::string& capacity : flags.capacities) {
    HOSTLER_ASSIGN_OR_RETURN(const int64_t experts, ParseCapacity(capacity, requests.shape()));
    for (const std::string& name : flags.policies) {
      Row row{path, capacity, experts, name, "", {}};
      if (flags.predictors.empty()) {
        HOSTLER_ASSIGN_OR_RETURN(auto policy, MakePolicy(name, requests, flags.cold));
        row.times.counts =
            Replay(requests, {experts, flags.cold, name == "belady_bypass"}, policy.get());
        rows->push_back(row);
      }
      for (const std::string& predictor : flags.predictors) {
        HOSTLER_RETURN_IF_ERROR(RunTimed(flags, trace.header, requests, predictor, &row));
        rows->push_back(row);
      }
    }
  }
  return absl::OkStatus();
}

nlohmann::ordered_json ToJson(const Row& row) {
  nlohmann::ordered_json json = {{"trace", row.trace},
                                 {"capacity", row.capacity},
                                 {"experts", row.experts},
                                 {"policy", row.policy},
                                 {"hits", row.times.counts.hits},
                                 {"lookups", row.times.counts.lookups}};
  if (row.predictor.empty()) return json;
  json["predictor"] = row.predictor;
  json["tokens"] = row.times.tokens;
  json["tokens_per_second"] =
      row.times.seconds > 0 ? static_cast<double>(row.times.tokens) / row.times.seconds : 0;
  json["stall_seconds"] = row.times.stall_seconds;
  json["demand_bytes"] = row.times.demand_bytes;
  json["speculative_bytes"] = row.times.speculative_bytes;
  json["wasted_bytes"] = row.times.wasted_bytes;
  return json;
}

void PrintTable(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const ReplayCounts& counts = row.times.counts;
    const double rate = counts.lookups > 0 ? 100.0 * counts.hits / counts.lookups : 0;
    fmt::print("{}  {:>5} ({} experts)  {:<16} {:>6.2f}%  {} of {}", row.trace, row.capacity,
               row.experts, row.policy, rate, counts.hits, counts.lookups);
    if (!row.predictor.empty()) {
      const ReplayTimes& times = row.times;
      fmt::print("  {:<11} {:.2f} tokens/s, stall {:.2f} s, demand {}, speculative {}, wasted {}",
                 row.predictor, times.seconds > 0 ? times.tokens / times.seconds : 0,
                 times.stall_seconds, FormatBytes(times.demand_bytes),
                 FormatBytes(times.speculative_bytes), FormatBytes(times.wasted_bytes));
    }
    fmt::print("\n");
  }
}

int RunReplay(const ReplayFlags& flags) {
  std::vector<Row> rows;
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& path : flags.traces) {
    if (absl::Status status = ReplayTrace(flags, path, &rows); !status.ok()) return Fail(status);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Row& row : rows) list.push_back(ToJson(row));
    fmt::print("{}\n", DumpLine(list));
  } else {
    uint64_t lookups = 0;
    for (const Row& row : rows) lookups += row.times.counts.lookups;
    PrintTable(rows);
    fmt::print("{} lookups in {:.2f} s: {:.0f} a second\n", lookups, seconds, lookups / seconds);
  }
  return FinishStdout();
}

}  // namespace

void AddReplayCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<ReplayFlags>();
  CLI::App* command = app->add_subcommand(
      "replay",
      "Replay expert traces through the cache policies that serve, and count the hits.\n"
      "One pool of experts for all layers; the prompt fills it and is not counted");
  command->add_option("traces", flags->traces, "Traces; HEAD+TAIL joins two files of one recording")
      ->type_name("TRACE")
      ->required();
  const auto list = [command](const char* name, std::vector<std::string>* values,
                              const std::string& description) {
    return command->add_option(name, *values, description)->delimiter(',')->allow_extra_args(false);
  };
  list("--capacity", &flags->capacities, "Percentages of all experts, or numbers of experts")
      ->capture_default_str();
  list("--policy", &flags->policies,
       fmt::format("Of default, {}, belady, belady_bypass", fmt::join(EvictionPolicyNames(), ", ")))
      ->capture_default_str();
  command->add_flag("--cold", flags->cold, "Leave the prompts out: start with an empty cache");
  command
      ->add_option("--sequences", flags->sequences,
                   "Run so many equal stretches of the decode tokens as one batch, without the "
                   "prompt")
      ->check(Between(1, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print a list with one object a row");
  CLI::Option* predictor = list("--predictor", &flags->predictors,
                                "Read ahead as these say, and tell the time it takes: none, "
                                "transitions, previous, perfect");
  const auto timed = [predictor](CLI::Option* option) {
    return option->needs(predictor)->capture_default_str()->group("With --predictor");
  };
  timed(command->add_option("--bandwidth", flags->bandwidth, "Bytes the disk reads in a second"));
  timed(command->add_option("--compute-ms", flags->compute_ms,
                            "Time to compute a token with all its experts in memory"))
      ->check(Positive());
  timed(command->add_option("--ahead", flags->ahead, "Layers to read ahead"))->check(Between(1, 8));
  timed(command->add_option("--least-chance", flags->least_chance,
                            "Guesses less likely are not read"))
      ->check(CLI::Range(0.0, 1.0).description(""));
  command->footer(
      "Example:\n  hostler replay qwen.csv --capacity 5%,10%,20% --policy default,belady");
  command->callback([flags, run] { *run = [flags] { return RunReplay(*flags); }; });
}

}  // namespace hostler
