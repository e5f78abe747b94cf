// hostler analyze: whether a model suits offloading, from a trace.

#include <memory>
#include <string>

#include "cache/trace_analysis.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/commands/trace_commands.h"

namespace hostler {
namespace {

struct AnalyzeFlags {
  std::string trace;
  bool json = false;
};

nlohmann::ordered_json ToJson(const TraceHeader& header, const TraceAnalysis& analysis) {
  nlohmann::ordered_json segments = nlohmann::ordered_json::array();
  for (const SegmentScore& segment : analysis.segments) {
    segments.push_back(
        {{"tokens", segment.tokens},
         {"srp", segment.srp},
         {"size_ratio", segment.size_ratio},
         {"sch", {{"1", segment.sch[0]}, {"2", segment.sch[1]}, {"4", segment.sch[2]}}}});
  }
  nlohmann::ordered_json hits = nlohmann::ordered_json::array();
  for (const auto& [capacity, rate] : analysis.hits) {
    hits.push_back({{"capacity", capacity}, {"hit_rate", rate}});
  }
  return {{"model", header.model},
          {"layers", header.layers},
          {"experts", header.experts},
          {"experts_per_token", header.topk},
          {"decode_tokens", analysis.tokens},
          {"segments", segments},
          {"reuse_within",
           {{"1", analysis.reuse_within[0]},
            {"4", analysis.reuse_within[1]},
            {"16", analysis.reuse_within[2]},
            {"64", analysis.reuse_within[3]}}},
          {"first_uses", analysis.first_uses},
          {"top_tenth", analysis.top_tenth},
          {"top_fifth", analysis.top_fifth},
          {"never_used", analysis.never_used},
          {"affinity", analysis.affinity},
          {"affinity_of_popular", analysis.affinity_of_popular},
          {"hits", hits},
          {"cycle", analysis.cycle},
          {"expert_bytes", analysis.all_bytes},
          {"expert_bytes_assumed", analysis.bytes_assumed},
          {"budget", analysis.budget},
          {"verdict", Verdict(analysis)}};
}

void Print(const TraceHeader& header, const TraceAnalysis& analysis) {
  fmt::print("{}: {} layers of {} experts, {} for a token; {} decode tokens\n\n", header.model,
             header.layers, header.experts, header.topk, analysis.tokens);
  fmt::print("segment   SRP   size ratio   SCH with 1x, 2x, 4x a token's experts\n");
  for (const SegmentScore& segment : analysis.segments) {
    fmt::print("{:>4} tok  {:.3f}  {:>9.2f}   {:.3f}  {:.3f}  {:.3f}\n", segment.tokens,
               segment.srp, segment.size_ratio, segment.sch[0], segment.sch[1], segment.sch[2]);
  }
  fmt::print("\nused again within 1, 4, 16, 64 tokens  {:.1f}%  {:.1f}%  {:.1f}%  {:.1f}%\n",
             100 * analysis.reuse_within[0], 100 * analysis.reuse_within[1],
             100 * analysis.reuse_within[2], 100 * analysis.reuse_within[3]);
  fmt::print("first uses                             {:.1f}%\n", 100 * analysis.first_uses);
  fmt::print("uses by the busiest tenth, fifth       {:.1f}%  {:.1f}%\n", 100 * analysis.top_tenth,
             100 * analysis.top_fifth);
  fmt::print("experts never used                     {:.1f}%\n", 100 * analysis.never_used);
  fmt::print("told by the layer before               {:.1f}% (by popularity alone {:.1f}%)\n\n",
             100 * analysis.affinity, 100 * analysis.affinity_of_popular);
  fmt::print("experts in memory   hits of the default policy\n");
  for (const auto& [capacity, rate] : analysis.hits) {
    fmt::print("{:>15.0f}%    {:.1f}%\n", 100 * capacity, 100 * rate);
  }
  fmt::print("\n{}\n", Verdict(analysis));
}

int Analyze(const AnalyzeFlags& flags) {
  const absl::StatusOr<ExpertTrace> trace = ReadExpertTrace(flags.trace);
  if (!trace.ok()) return FailRunning(trace.status());
  const absl::StatusOr<TraceAnalysis> analysis = AnalyzeTrace(*trace);
  if (!analysis.ok()) return FailRunning(analysis.status());
  if (flags.json) {
    fmt::print("{}\n", DumpLine(ToJson(trace->header, *analysis)));
  } else {
    Print(trace->header, *analysis);
  }
  return FinishStdout();
}

}  // namespace

void AddAnalyzeCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<AnalyzeFlags>();
  CLI::App* command = app->add_subcommand(
      "analyze", "Tell from an expert trace whether a model suits offloading, and what to give it");
  command->add_option("trace", flags->trace, "A trace; HEAD+TAIL joins two files of one recording")
      ->type_name("TRACE")
      ->required();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer("Example:\n  hostler analyze qwen.csv");
  command->callback([flags, run] { *run = [flags] { return Analyze(*flags); }; });
}

}  // namespace hostler
