// What deciding costs: the median time of Router::Route, with many deciding at
// once. `--router FILE` adds the prediction of a router file to it, `--encoder DIR`
// the embeddings that the file was trained with.

#include <algorithm>
#include <chrono>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "router/policy/scored_policy.h"
#include "router/quality/predictor.h"
#include "router/quality/prompt_embedder.h"
#include "router/router.h"
#include "router/test_engine.h"

namespace hostler {
namespace {

struct Flags {
  std::string router;
  int threads = 16;
  int targets = 5;
  int requests = 20000;  // of each thread
  int prompt_bytes = 4000;
  std::string prompts;  // JSONL; else all are alike, of prompt_bytes
  std::string encoder;
  int encoder_tokens = kDefaultEncoderTokens;
  double encoder_wait_ms = 5;
  double think_ms = 0;  // pause of a thread between two decisions: its mean
};

double Seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

GenerateRequest Request(const std::string& text) {
  GenerateRequest request;
  request.model = "auto";
  ChatPrompt chat;
  chat.messages = {{{"role", "system"}, {"content", "You help."}},
                   {{"role", "user"}, {"content", text}}};
  request.prompt = std::move(chat);
  return request;
}

std::vector<GenerateRequest> Requests(const Flags& flags) {
  std::vector<GenerateRequest> requests;
  std::ifstream file(flags.prompts);
  for (std::string line; requests.size() < 1000 && std::getline(file, line);) {
    requests.push_back(Request(nlohmann::json::parse(line)["prompt"]));
  }
  if (!requests.empty()) return requests;
  std::string text;
  while (int(text.size()) < flags.prompt_bytes) text += "What is the boiling point of water? ";
  return {Request(text)};
}

struct Times {
  std::vector<double> all;
  std::vector<double> embedded;  // of those that have their embedding
};

// `requests` decisions of one thread.
Times Decide(const Router& router, const std::vector<GenerateRequest>& requests, int seed,
             const Flags& flags) {
  Times times;
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  std::exponential_distribution<double> think(1);
  for (int i = 0; i < flags.requests; ++i) {
    if (flags.think_ms > 0) {
      std::this_thread::sleep_for(
          std::chrono::duration<double, std::milli>(think(random) * flags.think_ms));
    }
    const GenerateRequest& request = requests[random() % requests.size()];
    const auto start = std::chrono::steady_clock::now();
    const auto decision = router.Route(request);
    times.all.push_back(Seconds(std::chrono::steady_clock::now() - start));
    if (!decision.ok()) std::abort();
    if (decision->embedding == EmbeddingUse::kUsed) times.embedded.push_back(times.all.back());
  }
  return times;
}

double Quantile(std::vector<double>* sorted, double q) {
  if (sorted->empty()) return 0;
  std::sort(sorted->begin(), sorted->end());
  return (*sorted)[size_t(q * double(sorted->size() - 1))] * 1e6;
}

int Run(const Flags& flags) {
  std::unique_ptr<PromptEmbedder> embedder;
  if (!flags.encoder.empty()) {
    auto encoder = Encoder::Load(flags.encoder, {.max_tokens = flags.encoder_tokens});
    if (!encoder.ok()) {
      fmt::print(stderr, "{}\n", encoder.status().ToString());
      return 1;
    }
    embedder = std::make_unique<PromptEmbedder>(
        *std::move(encoder), std::chrono::microseconds(int64_t(flags.encoder_wait_ms * 1000)));
  }
  Router router;
  ScoredRoutingOptions options;
  options.embedder = embedder.get();
  options.router_file = flags.router;
  options.load = QualityPredictor::Load;
  options.limits.min_quality = 0.6;
  options.day_usd = 1e9;
  std::vector<std::string> models;
  if (!flags.router.empty()) {
    const auto source = QualityPredictor::Load(flags.router);
    if (!source.ok()) {
      fmt::print(stderr, "{}\n", source.status().ToString());
      return 1;
    }
    models = (*source)->models();
  }
  for (int i = 0; i < flags.targets; ++i) {
    const std::string name = fmt::format("model-{}", i);
    const double price = i + 1;
    (void)router.AddTarget(NewLocalTarget(name, {price, price}, std::make_unique<TestEngine>()));
    options.targets.push_back({.target = name, .quality = 0.4 + 0.1 * i});
    if (!models.empty()) options.targets.back().quality_as = models[size_t(i) % models.size()];
  }
  (void)router.AddVirtualModel(
      "auto", std::make_unique<ScoredRoutingPolicy>(options, NewCostQuality(std::nullopt)));

  const std::vector<GenerateRequest> requests = Requests(flags);
  std::vector<Times> times(size_t(flags.threads));
  std::vector<std::thread> threads;
  const auto begin = std::chrono::steady_clock::now();
  for (size_t t = 0; t < times.size(); ++t) {
    threads.emplace_back([&, t] { times[t] = Decide(router, requests, int(t), flags); });
  }
  for (std::thread& thread : threads) thread.join();
  const double total = Seconds(std::chrono::steady_clock::now() - begin);
  std::vector<double> all, embedded;
  for (const Times& own : times) {
    all.insert(all.end(), own.all.begin(), own.all.end());
    embedded.insert(embedded.end(), own.embedded.begin(), own.embedded.end());
  }
  fmt::print(
      "{{\"threads\":{},\"targets\":{},\"median_us\":{:.2f},\"p90_us\":{:.2f},"
      "\"p99_us\":{:.2f},\"decisions_per_s\":{:.0f},\"embedded\":{:.3f},"
      "\"embedded_median_us\":{:.0f},\"embedded_p99_us\":{:.0f}}}\n",
      flags.threads, flags.targets, Quantile(&all, 0.5), Quantile(&all, 0.9), Quantile(&all, 0.99),
      double(all.size()) / total, double(embedded.size()) / double(all.size()),
      Quantile(&embedded, 0.5), Quantile(&embedded, 0.99));
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  hostler::Flags flags;
  CLI::App app("Time that routing decisions take");
  app.add_option("--router", flags.router, "router file");
  app.add_option("--threads", flags.threads, "deciding at once");
  app.add_option("--targets", flags.targets);
  app.add_option("--requests", flags.requests, "decisions of each thread");
  app.add_option("--prompt-bytes", flags.prompt_bytes);
  app.add_option("--prompts", flags.prompts, "JSONL with \"prompt\", in place of --prompt-bytes");
  app.add_option("--encoder", flags.encoder, "directory of the encoder");
  app.add_option("--encoder-tokens", flags.encoder_tokens);
  app.add_option("--encoder-wait-ms", flags.encoder_wait_ms);
  app.add_option("--think-ms", flags.think_ms, "mean pause of a thread between two decisions");
  CLI11_PARSE(app, argc, argv);
  return hostler::Run(flags);
}
