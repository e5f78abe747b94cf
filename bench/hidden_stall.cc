// How much of the time that decode waits for experts reading ahead can hide, and
// how much of it is hidden: the serving expert cache under a model, a reader no
// faster than a disk of a given bandwidth, and layers that take a given time.
//
//   hidden_stall models/sample-moe --prompts heldout.txt --experts 25,50 --read-ms 0.5 --layer-ms 1
//
// off        nothing is read ahead
// gate       the gate lookahead, whatever is likelier than not
// auto       the same under the governor: what serves
// transitions  what followed the experts of the layer before
// perfect    knows what the next layer chooses (recorded by a first run)
//
// hideable   what perfect takes from off's stall; hidden: a mode's share of it
// wasted     of the bytes read ahead, those that nobody asked for
// p99        of a demanded read, from when it was wanted until the expert was there
//
// Modes take turns within a round; figures are of all rounds together.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "bench/model_runner.h"
#include "cache/throttled_reader.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Case {
  std::string model, prompts;
  int tokens = 384, warm_up = 64, rounds = 2, sequences = 1, threads = 1;
  int percent = 25;  // of the experts' bytes
  double read_ms = 0.5, layer_ms = 1;
};

enum class Mode { kRecord, kOff, kTransitions, kGate, kAuto, kPerfect };
constexpr std::string_view kModeNames[] = {"", "off", "transitions", "gate", "auto", "perfect"};

// What every request of a run asked for, in their order.
using Recording = std::vector<std::vector<ExpertKey>>;

class Recorder : public ExpertPredictor {
 public:
  explicit Recorder(Recording* recording) : recording_(recording) {}
  std::string_view name() const override { return "recorder"; }
  void OnRequest(const ExpertRequest& request) override {
    auto& keys = recording_->emplace_back();
    for (const int expert : request.experts) keys.push_back({request.layer, expert});
  }
  void Predict(int, std::vector<ExpertGuess>*) override {}

 private:
  Recording* const recording_;
};

class Perfect : public ExpertPredictor {
 public:
  explicit Perfect(const Recording* recording) : recording_(recording) {}
  std::string_view name() const override { return "perfect"; }
  void OnRequest(const ExpertRequest&) override { ++seen_; }
  void Predict(int ahead, std::vector<ExpertGuess>* guesses) override {
    const size_t next = seen_ - 1 + ahead;
    if (next >= recording_->size()) return;
    for (const ExpertKey key : (*recording_)[next]) guesses->push_back({key, 1});
  }

 private:
  const Recording* const recording_;
  size_t seen_ = 0;
};

// Every layer takes so long before it asks for its experts: what a larger model
// computes there.
class Pace : public GateTrace {
 public:
  explicit Pace(double ms) : time_(ms) {}
  void Record(int, const ExpertSelection&) override {
    const Clock::time_point start = Clock::now();
    std::this_thread::sleep_for(time_);
    seconds_ += SecondsSince(start);
  }
  double seconds() const { return seconds_; }

 private:
  const std::chrono::duration<double, std::milli> time_;
  double seconds_ = 0;
};

struct Outcome {
  double seconds = 0, stall = 0;
  uint64_t tokens = 0, demand = 0, speculative = 0, wasted = 0;
  LatencyHistogram reads;

  void Add(const Outcome& other) {
    seconds += other.seconds;
    stall += other.stall;
    tokens += other.tokens;
    demand += other.demand;
    speculative += other.speculative;
    wasted += other.wasted;
    for (int i = 0; i < LatencyHistogram::kBuckets; ++i) reads.counts[i] += other.reads.counts[i];
  }
};

class Bench {
 public:
  static absl::Status Run(const Case& c, ModelRunner* runner,
                          const std::vector<std::vector<int32_t>>& prompts);

 private:
  Bench(const Case& c, ModelRunner* runner, const std::vector<std::vector<int32_t>>& prompts)
      : case_(c), runner_(*runner), prompts_(prompts) {}

  absl::StatusOr<std::unique_ptr<ExpertCache>> NewCache(Mode mode);
  absl::StatusOr<Outcome> Measure(Mode mode);
  void Print() const;

  const Case& case_;
  ModelRunner& runner_;
  const std::vector<std::vector<int32_t>>& prompts_;
  Recording recording_;
  std::vector<int32_t> tokens_;  // of the first run
  Outcome outcomes_[6];
};

absl::StatusOr<std::unique_ptr<ExpertCache>> Bench::NewCache(Mode mode) {
  const ExpertStore& store = runner_.experts();
  HOSTLER_ASSIGN_OR_RETURN(auto reader, NewReader(runner_.files(), ReaderOptionsFor(store)));
  if (mode != Mode::kRecord) {
    const double bytes = static_cast<double>(TotalBytes(store.extents({0, 0})));
    reader = NewThrottledReader(std::move(reader), bytes / (case_.read_ms * 1e-3));
  }
  HOSTLER_ASSIGN_OR_RETURN(auto policy, NewEvictionPolicy("default", runner_.shape()));
  std::unique_ptr<ExpertPredictor> predictor;
  if (mode == Mode::kRecord) predictor = std::make_unique<Recorder>(&recording_);
  if (mode == Mode::kPerfect) predictor = std::make_unique<Perfect>(&recording_);
  if (mode == Mode::kTransitions) predictor = NewTransitionPredictor(runner_.shape());
  ExpertCache::Options options;
  options.capacity_bytes = runner_.all_bytes() * case_.percent / 100;
  options.govern_prefetch = mode == Mode::kAuto;
  if (mode == Mode::kOff || mode == Mode::kRecord) options.speculative_reads = 0;
  return ExpertCache::Create(options, &store, std::move(reader), std::move(policy),
                             std::move(predictor));
}

absl::StatusOr<Outcome> Bench::Measure(Mode mode) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<ExpertCache> cache, NewCache(mode));
  Pace pace(mode == Mode::kRecord ? 0 : case_.layer_ms);
  runner_.Use(cache.get(), mode == Mode::kGate || mode == Mode::kAuto, &pace);
  for (int i = 0; i < case_.sequences; ++i) {
    HOSTLER_RETURN_IF_ERROR(runner_.Prefill(i, prompts_[i]));
    cache->EndStep({0, static_cast<int>(prompts_[i].size()), 1});
  }
  std::vector<int32_t> tokens;
  ExpertCacheStats before;
  LatencyHistogram reads_before;
  Outcome outcome;
  for (int i = 0; i < case_.warm_up + case_.tokens; ++i) {
    if (i == case_.warm_up) {
      before = cache->stats();
      reads_before = cache->DemandReads();
    }
    const Clock::time_point start = Clock::now();
    HOSTLER_RETURN_IF_ERROR(runner_.Decode(&tokens));
    const double seconds = SecondsSince(start);
    cache->EndStep({case_.sequences, 0, seconds});
    if (i >= case_.warm_up) outcome.seconds += seconds;
  }
  const ExpertCacheStats after = cache->stats();
  outcome.reads = cache->DemandReads();
  for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
    outcome.reads.counts[i] -= reads_before.counts[i];
  }
  outcome.tokens = uint64_t(case_.tokens) * case_.sequences;
  outcome.stall = after.stall_seconds - before.stall_seconds;
  outcome.speculative = after.speculative_bytes - before.speculative_bytes;
  outcome.demand = after.read_bytes - before.read_bytes - outcome.speculative;
  outcome.wasted = after.speculative_wasted_bytes - before.speculative_wasted_bytes;
  if (mode == Mode::kRecord) tokens_ = tokens;
  if (tokens != tokens_) return absl::InternalError("the tokens are other ones");
  return outcome;
}

absl::Status Bench::Run(const Case& c, ModelRunner* runner,
                        const std::vector<std::vector<int32_t>>& prompts) {
  Bench bench(c, runner, prompts);
  HOSTLER_RETURN_IF_ERROR(bench.Measure(Mode::kRecord).status());
  for (int round = 0; round < c.rounds; ++round) {
    for (const Mode mode :
         {Mode::kOff, Mode::kTransitions, Mode::kGate, Mode::kAuto, Mode::kPerfect}) {
      HOSTLER_ASSIGN_OR_RETURN(const Outcome outcome, bench.Measure(mode));
      bench.outcomes_[int(mode)].Add(outcome);
    }
  }
  bench.Print();
  return absl::OkStatus();
}

void Bench::Print() const {
  const Outcome& off = outcomes_[int(Mode::kOff)];
  const double hideable = off.stall - outcomes_[int(Mode::kPerfect)].stall;
  const auto ms = [](double seconds, const Outcome& o) { return seconds * 1e3 / double(o.tokens); };
  fmt::print(
      "{}% of the experts, {} at once, read {} ms, layer {} ms; hideable {:.2f} ms a token\n",
      case_.percent, case_.sequences, case_.read_ms, case_.layer_ms, ms(hideable, off));
  fmt::print("  {:12}{:>10}{:>9}{:>12}{:>9}{:>11}{:>11}{:>8}{:>8}\n", "", "tokens/s", "x off",
             "stall ms", "hidden", "reads", "ahead", "wasted", "p99 ms");
  for (const Mode mode :
       {Mode::kOff, Mode::kTransitions, Mode::kGate, Mode::kAuto, Mode::kPerfect}) {
    const Outcome& o = outcomes_[int(mode)];
    const double mib = double(o.tokens) * (1 << 20);
    fmt::print("  {:12}{:10.1f}{:9.3f}{:12.2f}{:8.0f}%{:7.2f} MiB{:7.2f} MiB{:7.0f}%{:8.2f}\n",
               kModeNames[int(mode)], double(o.tokens) / o.seconds, off.seconds / o.seconds,
               ms(o.stall, o), 100 * (off.stall - o.stall) / hideable, double(o.demand) / mib,
               double(o.speculative) / mib,
               o.speculative > 0 ? 100 * double(o.wasted) / double(o.speculative) : 0,
               o.reads.Quantile(0.99) * 1e3);
  }
  std::fflush(stdout);
}

// Stretches of a text, as far apart as it allows.
std::vector<std::vector<int32_t>> Prompts(const Tokenizer& tokenizer, const std::string& text,
                                          int count) {
  constexpr size_t kBytes = 300;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < count; ++i) {
    const size_t at = (text.size() - kBytes) / size_t(count) * size_t(i);
    prompts.push_back(tokenizer.Encode(text.substr(at, kBytes), {}));
  }
  return prompts;
}

int Main(Case c, const std::vector<int>& percents, const std::vector<int>& sequences) {
  std::ostringstream text;
  text << std::ifstream(c.prompts).rdbuf();
  if (text.str().size() < 1000) {
    fmt::print(stderr, "{}: no text of 1000 bytes\n", c.prompts);
    return 1;
  }
  for (const int count : sequences) {
    c.sequences = count;
    auto runner = ModelRunner::Load(c.model, c.threads, count, 512 + c.warm_up + c.tokens);
    absl::Status status = runner.status();
    for (const int percent : percents) {
      if (!status.ok()) break;
      c.percent = percent;
      status = Bench::Run(c, runner->get(), Prompts(*(*runner)->tokenizer(), text.str(), count));
    }
    if (!status.ok()) {
      fmt::print(stderr, "{}\n", std::string(status.message()));
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  hostler::Case c;
  std::vector<int> percents = {25, 50}, sequences = {1};
  CLI::App app("Says how much of the wait for experts reading ahead hides");
  app.add_option("MODEL", c.model, "with a tokenizer")->required();
  app.add_option("--prompts", c.prompts, "a text that prompts are taken from")->required();
  app.add_option("--experts", percents, "per cent of their bytes that are held")->delimiter(',');
  app.add_option("--sequences", sequences, "that decode at once")->delimiter(',');
  app.add_option("--read-ms", c.read_ms, "that the disk takes for an expert");
  app.add_option("--layer-ms", c.layer_ms, "that a layer computes");
  app.add_option("--tokens", c.tokens, "of each sequence in each run");
  app.add_option("--warm-up", c.warm_up, "tokens before them");
  app.add_option("--rounds", c.rounds, "of all modes");
  app.add_option("--threads", c.threads);
  CLI11_PARSE(app, argc, argv);
  return hostler::Main(c, percents, sequences);
}
