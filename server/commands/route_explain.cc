// hostler route explain: which model a running server would take, and why.
#include <cstdio>
#include <memory>
#include <string>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/bench/load_client.h"
#include "server/commands/route_commands.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kTimeout_s = 10;

struct Flags {
  std::string url = "http://127.0.0.1:8000";
  std::string model = "auto";
  std::string prompt;
  int max_tokens = 0;
  bool json = false;
};

std::string Text(const Json& json, const char* key) {
  if (!json.is_object()) return "";
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

absl::StatusOr<Json> Ask(const Flags& flags) {
  HOSTLER_ASSIGN_OR_RETURN(const ServerAddress server, ParseServerUrl(flags.url));
  Json body = {{"model", flags.model},
               {"messages", Json::array({{{"role", "user"}, {"content", flags.prompt}}})}};
  if (flags.max_tokens > 0) body["max_tokens"] = flags.max_tokens;
  HOSTLER_ASSIGN_OR_RETURN(const HttpAnswer answer,
                           FetchFrom(server, "/v1/route", kTimeout_s,
                                     body.dump(-1, ' ', false, Json::error_handler_t::replace)));
  const Json json = Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  if (answer.status == 200 && json.is_object()) return json;
  const std::string error =
      json.is_object() && json.contains("error") ? Text(json["error"], "message") : "";
  if (!error.empty()) return absl::FailedPreconditionError(error);
  return absl::FailedPreconditionError(
      fmt::format("{}/v1/route answers HTTP {}", flags.url, answer.status));
}

std::string Number(const Json& candidate, const char* key, const char* form) {
  const auto found = candidate.find(key);
  if (found == candidate.end() || !found->is_number()) return "-";
  return fmt::format(fmt::runtime(form), found->get<double>());
}

void Print(const Json& decision) {
  fmt::print("{}: {}\n", Text(decision, "model"), Text(decision, "reason"));
  const std::string embedding = Text(decision, "embedding");
  if (!embedding.empty()) fmt::print("embedding: {}\n", embedding);
  const auto candidates = decision.find("candidates");
  if (candidates == decision.end() || !candidates->is_array() || candidates->empty()) return;
  fmt::print("\n{:24} {:>8} {:>8} {:>12} {:>9} {:>9}\n", "model", "quality", "tokens", "cost, USD",
             "first, s", "end, s");
  for (const Json& each : *candidates) {
    if (!each.is_object()) continue;
    fmt::print("{:24} {:>8} {:>8} {:>12} {:>9} {:>9}  {}\n", Text(each, "model"),
               Number(each, "quality", "{:.3f}"), Number(each, "output_tokens", "{:.0f}"),
               Number(each, "cost_usd", "{:.3g}"), Number(each, "first_token_s", "{:.2f}"),
               Number(each, "latency_s", "{:.2f}"), Text(each, "left_out"));
  }
}

int Explain(const Flags& flags) {
  const absl::StatusOr<Json> decision = Ask(flags);
  if (!decision.ok()) return FailRunning(decision.status());
  if (flags.json) {
    fmt::print("{}\n", decision->dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    Print(*decision);
  }
  return FinishStdout();
}

}  // namespace

void AddRouteExplain(CLI::App* route, RunCommand* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      route->add_subcommand("explain", "Ask a running server where a prompt would go, and why");
  command->add_option("prompt", flags->prompt, "What the user would write")->required();
  command->add_option("--url", flags->url, "The server: http://HOST:PORT")->capture_default_str();
  command->add_option("--model", flags->model, "The virtual model")->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "Of the answer")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, run] { *run = [flags] { return Explain(*flags); }; });
}

}  // namespace hostler
