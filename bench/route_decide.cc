// What deciding costs: the median time of Router::Route, with many deciding at
// once. `--router FILE` adds the prediction of a router file to it.

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "router/policy/scored_policy.h"
#include "router/quality/predictor.h"
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
};

double Seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

int Run(const Flags& flags) {
  Router router;
  ScoredRoutingOptions options;
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

  GenerateRequest request;
  request.model = "auto";
  ChatPrompt chat;
  std::string text;
  while (int(text.size()) < flags.prompt_bytes) text += "What is the boiling point of water? ";
  chat.messages = {{{"role", "system"}, {"content", "You help."}},
                   {{"role", "user"}, {"content", text}}};
  request.prompt = std::move(chat);

  std::vector<std::vector<double>> times(size_t(flags.threads));
  std::vector<std::thread> threads;
  const auto begin = std::chrono::steady_clock::now();
  for (auto& own : times) {
    threads.emplace_back([&] {
      own.reserve(size_t(flags.requests));
      for (int i = 0; i < flags.requests; ++i) {
        const auto start = std::chrono::steady_clock::now();
        const auto decision = router.Route(request);
        own.push_back(Seconds(std::chrono::steady_clock::now() - start));
        if (!decision.ok()) std::abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double total = Seconds(std::chrono::steady_clock::now() - begin);
  std::vector<double> all;
  for (const auto& own : times) all.insert(all.end(), own.begin(), own.end());
  std::sort(all.begin(), all.end());
  fmt::print(
      "{{\"threads\":{},\"targets\":{},\"prompt_bytes\":{},\"median_us\":{:.2f},"
      "\"p90_us\":{:.2f},\"p99_us\":{:.2f},\"decisions_per_s\":{:.0f}}}\n",
      flags.threads, flags.targets, flags.prompt_bytes, all[all.size() / 2] * 1e6,
      all[all.size() * 9 / 10] * 1e6, all[all.size() * 99 / 100] * 1e6, all.size() / total);
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
  CLI11_PARSE(app, argc, argv);
  return hostler::Run(flags);
}
