// hostler bench: the speed of a model in this process, or of a server.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/bench/engine_bench.h"
#include "server/bench/load_client.h"
#include "server/bench/report.h"
#include "server/bench/trace.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/settings.h"

namespace hostler {
namespace {

constexpr int kDefaultVocab = 4096;
constexpr int kAskTimeout_s = 30;

struct BenchFlags {
  ModelFlags model;  // or the name of a server's model
  std::string prompt_tokens = "512";
  std::string gen_tokens = "64";
  uint64_t seed = 1;
  bool json = false;

  // In process.
  EngineBenchOptions engine;

  // Of a server.
  std::string url;
  int concurrency = 0;
  int requests = 32;
  double rate = 0;
  std::string trace;
  double speed = 1;
  int scale = 1;
  int limit = 0;
  bool no_spread = false;
  std::string vocab;
  int context = 0;
  int timeout_s = 600;
  double slo_ttft_ms = 0;
  double slo_itl_ms = 0;
};

// -- In process ---------------------------------------------------------------

int BenchModel(const BenchFlags& flags) {
  EngineBenchOptions options = flags.engine;
  const auto prompt = ParseIntRange(flags.prompt_tokens, 1);
  const auto gen = ParseIntRange(flags.gen_tokens, 1);
  if (!prompt.ok()) return Fail(prompt.status());
  if (!gen.ok()) return Fail(gen.status());
  if (prompt->first != prompt->last || gen->first != gen->last) {
    return Fail(absl::InvalidArgumentError("ranges of lengths need --url"));
  }
  options.prompt_tokens = prompt->first;
  options.gen_tokens = gen->first;
  options.seed = flags.seed;

  ModelFlags model = flags.model;
  const int most = *std::max_element(options.batches.begin(), options.batches.end());
  model.options.max_sequences = std::max(model.options.max_sequences, most);
  auto engine = LoadEngine(model);
  if (!engine.ok()) return FailRunning(engine.status());
  absl::StatusOr<std::vector<EngineBenchRow>> rows;
  {
    ProgressLine line;
    rows = BenchEngine(engine->get(), options, [&line](const std::string& s) { line.Show(s); });
  }
  if (!rows.ok()) return Fail(rows.status());
  if (flags.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const EngineBenchRow& row : *rows) list.push_back(ToJson(row, options));
    fmt::print("{}\n", DumpLine(list));
  } else {
    fmt::print("{}", ToTable(*rows, options));
  }
  return FinishStdout();
}

// -- A server -----------------------------------------------------------------

void Note(const std::string& text) { fmt::print(stderr, "hostler: note: {}\n", text); }

absl::StatusOr<IntRange> PromptIds(const BenchFlags& flags, const ServerInfo& server) {
  if (!flags.vocab.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(const IntRange ids, ParseIntRange(flags.vocab, 0));
    return ids.first == ids.last ? OrdinaryIds(ids.last) : ids;
  }
  if (server.vocab) return OrdinaryIds(*server.vocab);
  Note(fmt::format("the server does not tell its vocabulary; ids below {} are used (--vocab)",
                   kDefaultVocab));
  return OrdinaryIds(kDefaultVocab);
}

absl::StatusOr<LoadPlan> MakePlan(const BenchFlags& flags, int context) {
  LoadPlan plan;
  if (flags.trace.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(const IntRange prompt, ParseIntRange(flags.prompt_tokens, 1));
    HOSTLER_ASSIGN_OR_RETURN(const IntRange gen, ParseIntRange(flags.gen_tokens, 1));
    plan = RandomPlan(flags.requests, prompt, gen, flags.rate, flags.seed);
  } else {
    HOSTLER_ASSIGN_OR_RETURN(plan, ReadTrace(flags.trace, flags.limit));
    if (!flags.no_spread) SpreadGrain(&plan);
    HOSTLER_RETURN_IF_ERROR(ScaleLengths(flags.scale, &plan));
  }
  if (context > 0) SkipLongerThan(context, &plan);
  if (plan.requests.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("every request is longer than the context of {} tokens", context));
  }
  return plan;
}

double OfferedRate(const BenchFlags& flags, const LoadPlan& plan) {
  const double span_s = (plan.requests.back().at_s - plan.requests.front().at_s) / flags.speed;
  return span_s > 0 ? (plan.requests.size() - 1) / span_s : 0;
}

nlohmann::ordered_json Settings(const BenchFlags& flags, const LoadOptions& options,
                                const LoadPlan& plan) {
  nlohmann::ordered_json json = {{"url", flags.url}, {"model", options.model}};
  if (options.concurrency > 0) json["concurrency"] = options.concurrency;
  if (flags.trace.empty()) {
    if (flags.rate > 0) json["rate"] = flags.rate;
    json["prompt_tokens"] = flags.prompt_tokens;
    json["gen_tokens"] = flags.gen_tokens;
  } else {
    json["trace"] = flags.trace;
    json["speed"] = flags.speed;
    json["scale"] = flags.scale;
    json["spread"] = plan.spread;
  }
  json["rows"] = plan.requests.size();
  json["skipped"] = plan.skipped;
  json["ids"] = fmt::format("{}-{}", options.ids.first, options.ids.last);
  json["seed"] = flags.seed;
  return json;
}

void ShowProgress(const LoadProgress& p, ProgressLine* line) {
  line->Show(
      fmt::format("{:.0f} s: {} of {} sent, {} in flight, {} done, {} failed, {:.0f} tokens/s",
                  p.elapsed_s, p.sent, p.total, p.sent - p.done, p.done - p.failed, p.failed,
                  p.output_events / std::max(p.elapsed_s, 1e-3)));
}

int PrintSummary(const LoadSummary& summary, bool json) {
  if (json) {
    fmt::print("{}\n", DumpLine(ToJson(summary)));
  } else {
    fmt::print("{}", ToTable(summary));
  }
  if (summary.lateness_p99_ms > kMaxLateness_ms) {
    Note(fmt::format("the sender was {:.0f} ms late at p99: this run says nothing of the server",
                     summary.lateness_p99_ms));
  }
  const int exit_code = FinishStdout();
  if (summary.completed == 0) {
    return FailRunning(absl::UnavailableError(
        fmt::format("no request completed: {}", summary.failures.begin()->first)));
  }
  return exit_code;
}

int BenchServer(const BenchFlags& flags) {
  const absl::StatusOr<ServerAddress> address = ParseServerUrl(flags.url);
  if (!address.ok()) return Fail(address.status());
  const absl::StatusOr<ServerInfo> server =
      AskServer(*address, flags.model.path, std::min(flags.timeout_s, kAskTimeout_s));
  if (!server.ok()) return FailRunning(server.status());
  const int context = flags.context > 0 ? flags.context : server->context.value_or(0);
  const absl::StatusOr<LoadPlan> plan = MakePlan(flags, context);
  if (!plan.ok()) return Fail(plan.status());
  const absl::StatusOr<IntRange> ids = PromptIds(flags, *server);
  if (!ids.ok()) return Fail(ids.status());

  LoadOptions options;
  options.model = server->model;
  options.speed = flags.speed;
  options.ids = *ids;
  options.seed = flags.seed;
  options.timeout_s = flags.timeout_s;
  options.concurrency = flags.concurrency;
  const bool open_loop = flags.concurrency == 0 && (flags.rate > 0 || !flags.trace.empty());
  if (!open_loop) options.concurrency = std::max(flags.concurrency, 1);

  LoadSummaryOptions report;
  report.open_loop = open_loop;
  report.offered_rate = OfferedRate(flags, *plan);
  report.slo_ttft_ms = flags.slo_ttft_ms;
  report.slo_itl_ms = flags.slo_itl_ms;
  report.settings = Settings(flags, options, *plan);
  std::vector<Outcome> outcomes;
  {
    ProgressLine line;
    outcomes = RunLoad(*address, *plan, options,
                       [&line](const LoadProgress& p) { ShowProgress(p, &line); });
  }
  return PrintSummary(Summarize(outcomes, std::move(report)), flags.json);
}

int Bench(const BenchFlags& flags) {
  if (!flags.url.empty()) return BenchServer(flags);
  if (flags.model.path.empty()) {
    return Fail(absl::InvalidArgumentError("bench needs --model, or --url for a server"));
  }
  return BenchModel(flags);
}

void AddServerFlags(CLI::App* command, BenchFlags* flags) {
  const auto server = [command](CLI::Option* option) {
    return option->group("Of a server")->needs(command->get_option("--url"));
  };
  command
      ->add_option("--url", flags->url,
                   "Load this server: http://HOST:PORT. --model is then the "
                   "name of one of its models; default: its first")
      ->group("Of a server");
  server(command->add_option("--requests", flags->requests, "Requests to send"))
      ->check(Between(1, 10'000'000))
      ->capture_default_str();
  CLI::Option* concurrency =
      server(command->add_option("--concurrency", flags->concurrency,
                                 "Closed loop: so many clients, each sending its next request when "
                                 "the last one is answered. Default without --rate and --trace: 1"))
          ->check(Between(1, 20'000));
  CLI::Option* rate = server(command->add_option(
      "--rate", flags->rate, "Open loop: Poisson arrivals of so many requests a second"));
  rate->check(Positive())->excludes(concurrency);
  CLI::Option* trace = server(command->add_option(
      "--trace", flags->trace,
      "Replay the lengths and times of a trace (Azure CSV or Mooncake JSONL); with --concurrency "
      "the lengths only"));
  trace->excludes(rate);
  server(command->add_option("--speed", flags->speed, "Replay a trace so many times as fast"))
      ->check(Positive())
      ->needs(trace)
      ->capture_default_str();
  server(command->add_option("--scale", flags->scale,
                             "Divide a trace's lengths by this power of two, up to 64"))
      ->needs(trace)
      ->capture_default_str();
  server(command->add_option("--limit", flags->limit, "The first so many rows of a trace only"))
      ->check(Between(1, 100'000'000))
      ->needs(trace);
  server(command->add_flag("--no-spread", flags->no_spread,
                           "Keep a trace's 3 s grain, which is spread otherwise"))
      ->needs(trace);
  server(command->add_option("--vocab", flags->vocab,
                             "Prompts are drawn from so many ids, the first few left out, or from "
                             "the range A-B. Default: what the server tells, else 4096"));
  server(command->add_option("--context", flags->context,
                             "Skip (and count) requests longer than this. Default: what the "
                             "server tells"))
      ->check(Between(1, 1 << 30));
  server(command->add_option("--timeout", flags->timeout_s, "Seconds that one request may take"))
      ->check(Between(1, 1'000'000))
      ->capture_default_str();
  server(command->add_option("--slo-ttft-ms", flags->slo_ttft_ms,
                             "Goodput: time to first token at most"))
      ->check(Positive());
  server(command->add_option("--slo-itl-ms", flags->slo_itl_ms,
                             "Goodput: a request's mean time per output token at most"))
      ->check(Positive());
}

}  // namespace

void AddBenchCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app->add_subcommand(
      "bench",
      "Measure the speed of a model in this process, or with --url that of any OpenAI-compatible\n"
      "server. Prompts are random token ids; lengths are forced; decoding is greedy");
  command->add_option("model,--model", flags->model.path, "Directory of the model")
      ->type_name("MODEL");
  command
      ->add_option("--prompt-tokens", flags->prompt_tokens,
                   "Tokens of a prompt; with --url also a range A-B")
      ->capture_default_str();
  command
      ->add_option("--gen-tokens", flags->gen_tokens,
                   "Tokens to generate; with --url also a range A-B")
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of prompts, lengths and arrivals")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print JSON: a list of rows, or with --url an object");
  command->add_option("--batch", flags->engine.batches, "Sequences at once; several as 1,4,8")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Between(1, 4096))
      ->capture_default_str()
      ->group("In process");
  command->add_option("--repeat", flags->engine.repeat, "Repetitions; medians are reported")
      ->check(Between(1, 1000))
      ->capture_default_str()
      ->group("In process");
  for (const Setting& setting : ModelSettings(&flags->model.options)) {
    AddSettingFlag(command, setting, setting.set);
  }
  AddServerFlags(command, flags.get());
  command->footer(
      "Examples:\n"
      "  hostler bench --model models/sample-moe --batch 1,4,8\n"
      "  hostler bench --url http://127.0.0.1:8000 --concurrency 8 --requests 64 "
      "--prompt-tokens 64-512\n"
      "  hostler bench --url http://127.0.0.1:8000 --trace azure_conv_2023.csv --scale 8 "
      "--limit 500 --slo-ttft-ms 1000");
  command->callback([flags, run] { *run = [flags] { return Bench(*flags); }; });
}

}  // namespace hostler
