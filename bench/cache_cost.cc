// What the expert cache costs when every expert is in memory, against an engine
// that has them mapped: the share of a step's processor time that its calls to the
// cache take.
//
//   cache_cost models/sample-moe
//
// A run records what each step asks of the cache, and its processor time. Then the
// same calls are made again, with nothing computed between, at the same cache.
// What a mapped engine would do instead (an address for each expert) is not taken
// off. Processor time, since other processes may be running; one thread computes.
#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "bench/model_runner.h"

namespace hostler {
namespace {

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// The requests of some steps.
struct Request {
  int layer = 0, sequences = 0;
  std::vector<int> experts, offsets, chosen;
};

class Recorder : public ExpertPredictor {
 public:
  explicit Recorder(std::vector<Request>* requests) : requests_(requests) {}
  std::string_view name() const override { return "recorder"; }
  void OnRequest(const ExpertRequest& r) override {
    requests_->push_back({r.layer,
                          r.sequences,
                          {r.experts.begin(), r.experts.end()},
                          {r.offsets.begin(), r.offsets.end()},
                          {r.chosen.begin(), r.chosen.end()}});
  }
  void Predict(int, std::vector<ExpertGuess>*) override {}

 private:
  std::vector<Request>* const requests_;
};

absl::StatusOr<std::unique_ptr<ExpertCache>> NewCache(const ModelRunner& runner,
                                                      std::vector<Request>* requests) {
  const ExpertStore& store = runner.experts();
  HOSTLER_ASSIGN_OR_RETURN(auto reader, NewReader(runner.files(), ReaderOptionsFor(store)));
  // As the engine has it where every expert has a slot.
  HOSTLER_ASSIGN_OR_RETURN(auto policy, NewEvictionPolicy("lru", runner.shape()));
  std::unique_ptr<ExpertPredictor> recorder;
  if (requests != nullptr) recorder = std::make_unique<Recorder>(requests);
  return ExpertCache::Create({.capacity_bytes = runner.all_bytes()}, &store, std::move(reader),
                             std::move(policy), std::move(recorder));
}

// What MoeLayer and EngineLoop ask of a cache in a step.
void Call(ExpertCache* cache, const std::vector<Request>& requests, int layers) {
  for (const Request& r : requests) {
    if (cache->WantsGuesses()) continue;
    ExpertCache::Acquisition acquisition =
        cache->Acquire({r.layer, r.experts, r.offsets, r.chosen, r.sequences});
    if (cache->WantsGuesses()) continue;
    while (!acquisition.Next().empty()) {
    }
    if (r.layer + 1 == layers) cache->EndStep({r.sequences, 0, 1e-3});
  }
}

struct Figures {
  double step_us = 0, cache_us = 0;
};

// Medians, of one step. `step` makes one.
template <typename Step>
absl::StatusOr<Figures> Measure(ModelRunner* runner, int steps, const Step& step) {
  std::vector<Request> requests;
  HOSTLER_ASSIGN_OR_RETURN(const auto recording, NewCache(*runner, &requests));
  HOSTLER_ASSIGN_OR_RETURN(const auto cache, NewCache(*runner, nullptr));
  // Everything resident.
  const PolicyShape shape = runner->shape();
  std::vector<int> all(shape.experts);
  for (int expert = 0; expert < shape.experts; ++expert) all[expert] = expert;
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (ExpertCache* each : {recording.get(), cache.get()}) {
      ExpertCache::Acquisition acquisition = each->Acquire({layer, all});
      while (!acquisition.Next().empty()) {
      }
    }
  }
  std::vector<double> step_us, cache_us;
  for (int i = 0; i < steps; ++i) {
    requests.clear();
    runner->Use(recording.get(), true, nullptr);
    HOSTLER_RETURN_IF_ERROR(step());
    runner->Use(cache.get(), true, nullptr);
    double start = ThreadSeconds();
    HOSTLER_RETURN_IF_ERROR(step());
    step_us.push_back((ThreadSeconds() - start) * 1e6);
    start = ThreadSeconds();
    Call(cache.get(), requests, shape.layers);
    cache_us.push_back((ThreadSeconds() - start) * 1e6);
  }
  const auto median = [](std::vector<double>& values) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
  };
  return Figures{median(step_us), median(cache_us)};
}

void Print(const std::string& what, const Figures& figures) {
  fmt::print("{:26}{:12.0f}{:12.1f}{:9.2f}%\n", what, figures.step_us, figures.cache_us,
             100 * figures.cache_us / figures.step_us);
}

absl::Status Run(const std::string& path, int steps) {
  fmt::print("{:26}{:>12}{:>12}{:>10}\n", "", "step us", "cache us", "share");
  for (const int sequences : {1, 8}) {
    HOSTLER_ASSIGN_OR_RETURN(auto runner, ModelRunner::Load(path, 1, sequences, 1024));
    std::vector<int32_t> prompt;
    for (int i = 0; i < 512; ++i) prompt.push_back(300 + i * 37 % 3000);
    if (sequences == 1) {
      HOSTLER_ASSIGN_OR_RETURN(const Figures prefill, Measure(runner.get(), steps / 8, [&] {
                                 return runner->Prefill(0, prompt);
                               }));
      Print("prompt of 512 tokens", prefill);
    }
    HOSTLER_ASSIGN_OR_RETURN(const auto cache, NewCache(*runner, nullptr));
    runner->Use(cache.get(), false, nullptr);
    for (int i = 0; i < sequences; ++i) {
      HOSTLER_RETURN_IF_ERROR(runner->Prefill(i, std::span(prompt).subspan(size_t(i) * 20, 20)));
    }
    HOSTLER_ASSIGN_OR_RETURN(const Figures decode,
                             Measure(runner.get(), steps, [&] { return runner->Decode(); }));
    Print(fmt::format("decode of {} at once", sequences), decode);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  std::string path;
  int steps = 200;
  CLI::App app("Says what the expert cache costs when every expert is in memory");
  app.add_option("MODEL", path)->required();
  app.add_option("--steps", steps, "of each kind");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = hostler::Run(path, steps);
  if (!status.ok()) fmt::print(stderr, "{}\n", std::string(status.message()));
  return status.ok() ? 0 : 1;
}
