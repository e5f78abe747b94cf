// What serving costs besides the model: CPU time of the server process for each
// token, with a model that computes next to nothing. Engine loop, scheduler,
// sampler, detokenizer, streams and both front ends are the real ones; clients
// are another process, whose time is not counted.
//
// A step sleeps, as long as a model's would take (--step-ms), so that tokens come
// one at a time for each client: with 0 they pile up and share their writes.

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/loop_locks.h"
#include "bench/serving_clients.h"
#include "engine/base/status.h"
#include "engine/engine/engine_loop.h"
#include "engine/engine/prepare.h"
#include "fmt/format.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/service.h"

namespace hostler {
namespace {

constexpr int kContext = 4096, kBlockTokens = 16;

struct Flags {
  std::string model;
  int step_ms = 10;
  double rest_s = 0;
  ClientFlags clients;
};

// Chooses tokens by their position alone.
class StubModel : public Model {
 public:
  StubModel(const ModelInfo& info, const Tokenizer& tokenizer, int step_ms)
      : info_(info), step_(step_ms) {
    for (int32_t id = 0; id < info.vocab; ++id) {
      const std::string bytes = tokenizer.IsSpecial(id) ? "" : tokenizer.TokenBytes(id);
      const bool plain = std::all_of(bytes.begin(), bytes.end(),
                                     [](unsigned char c) { return c >= ' ' && c < 0x7f; });
      if (plain && !bytes.empty()) words_.push_back(id);
    }
  }

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override { return {}; }
  size_t state_bytes() const override { return 0; }
  const ExpertStore* experts() const override { return nullptr; }
  uint64_t weight_bytes() const override { return 0; }
  uint64_t ScratchBytes(const StepLimits&) const override { return 0; }
  uint64_t WorkspaceBytes(const StepLimits&) override { return 0; }
  absl::Status AllocateWorkspace(const StepLimits&) override { return absl::OkStatus(); }

  void Forward(const StepBatch& batch, const ModelMemory&, StepResult* result) override {
    thread_ = pthread_self();
    CountLocksOfThisThread();
    for (const size_t peak : peaks_) result->logits[peak] = 0;
    peaks_.clear();
    result->logits.resize(batch.logit_rows.size() * info_.vocab);
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const size_t word = words_[batch.positions[batch.logit_rows[i]] * 31 % words_.size()];
      peaks_.push_back(i * info_.vocab + word);
      result->logits[peaks_.back()] = 1;
    }
    if (step_.count() > 0) std::this_thread::sleep_for(step_);
  }

  absl::Status ReadLogits(const StepResult&, int, std::vector<float>*) override {
    return absl::InternalError("all logits are there");
  }

  // The engine loop's, in seconds. REQUIRES: a step was made.
  double LoopCpu() const {
    clockid_t clock;
    timespec now;
    if (pthread_getcpuclockid(thread_.load(), &clock) != 0 || clock_gettime(clock, &now) != 0) {
      return 0;
    }
    return double(now.tv_sec) + double(now.tv_nsec) * 1e-9;
  }

 private:
  const ModelInfo info_;
  const std::chrono::milliseconds step_;
  std::vector<int32_t> words_;
  std::vector<size_t> peaks_;  // of the logits
  std::atomic<pthread_t> thread_{};
};

class StubEngine : public Engine {
 public:
  absl::Status Start(const Flags& flags) {
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewCpuBackend(1));
    HOSTLER_ASSIGN_OR_RETURN(model_, LoadModel(flags.model, {}, std::move(backend)));
    auto stub =
        std::make_unique<StubModel>(model_.model->info(), *model_.text.tokenizer, flags.step_ms);
    stub_ = stub.get();
    model_.model = std::move(stub);
    EngineLoop::Options options;
    options.limits.block_tokens = kBlockTokens;
    options.limits.max_sequences = options.limits.logit_rows = options.width.max_width = 256;
    loop_ = std::make_unique<EngineLoop>(
        &model_, ModelMemory(), BlockPool(256 * kContext / kBlockTokens), nullptr, options);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override {
    HOSTLER_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Sequence>> sequences,
                             PrepareSequences(model_, kContext, std::move(request)));
    auto stream = std::make_shared<GenerateStream>();
    sequences.front()->request->stream = stream;
    HOSTLER_RETURN_IF_ERROR(loop_->Submit(std::move(sequences)));
    return stream;
  }
  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const GenerateRequest& request) const override {
    return hostler::TokenizePrompt(model_, request);
  }
  absl::StatusOr<std::vector<float>> Logits(const std::vector<int32_t>&) override {
    return absl::UnimplementedError("a stub has no logits");
  }
  void Drain(int deadline_ms) override { loop_->Drain(deadline_ms); }
  EngineStats stats() const override { return loop_->stats(); }
  std::optional<ExpertReport> experts() const override { return std::nullopt; }
  const ModelInfo& model() const override { return model_.model->info(); }
  MemoryPlan memory() const override { return {}; }
  absl::StatusOr<MemoryPlan> SetExpertMemory(uint64_t) override {
    return absl::FailedPreconditionError("a stub has no experts");
  }
  int max_context() const override { return kContext; }
  const Tokenizer* tokenizer() const override { return model_.text.tokenizer.get(); }

  double LoopCpu() const { return stub_->LoopCpu(); }

 private:
  LoadedModel model_;
  StubModel* stub_ = nullptr;
  std::unique_ptr<EngineLoop> loop_;
};

class NoLog : public RequestLog {
 public:
  void Write(const RequestRecord&) override {}
};

// What the process has used so far.
struct Used {
  double user_s = 0, system_s = 0, loop_s = 0;
  long switches = 0;
  uint64_t tokens = 0, steps = 0;
  LoopLocks locks;
  std::chrono::steady_clock::time_point at = std::chrono::steady_clock::now();
};

Used UsedBy(const StubEngine& engine) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  const EngineStats stats = engine.stats();
  return {seconds(usage.ru_utime), seconds(usage.ru_stime),
          engine.LoopCpu(),        usage.ru_nvcsw + usage.ru_nivcsw,
          stats.generated_tokens,  stats.steps,
          CountedLocks()};
}

double ResidentMiB() {
  long pages = 0;
  if (FILE* file = fopen("/proc/self/statm", "r")) {
    if (fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    fclose(file);
  }
  return double(pages * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

void Report(const Used& from, const Used& to) {
  const double tokens = double(to.tokens - from.tokens);
  const double wall = std::chrono::duration<double>(to.at - from.at).count();
  const auto per_token = [tokens](double seconds) { return seconds * 1e6 / tokens; };
  const double user = to.user_s - from.user_s, system = to.system_s - from.system_s;
  fmt::print(
      "  CPU a token    {:.1f} us ({:.1f} user, {:.1f} system), {:.1f} of it the engine "
      "loop's\n",
      per_token(user + system), per_token(user), per_token(system),
      per_token(to.loop_s - from.loop_s));
  fmt::print(
      "  tokens         {:.0f}, {:.0f} a second, {:.1f} a step; {:.2f} context switches "
      "a token\n",
      tokens, tokens / wall, tokens / double(to.steps - from.steps),
      double(to.switches - from.switches) / tokens);
  fmt::print("  loop's mutexes {:.2f} locked a token, {} of {} waited for, {:.3f}% of the time\n",
             double(to.locks.taken - from.locks.taken) / tokens,
             to.locks.contended - from.locks.contended, to.locks.taken - from.locks.taken,
             (to.locks.wait_s - from.locks.wait_s) / wall * 100);
}

absl::Status Serve(const Flags& flags, ClientProcess* clients) {
  auto owned = std::make_unique<StubEngine>();
  StubEngine& engine = *owned;
  HOSTLER_RETURN_IF_ERROR(engine.Start(flags));
  Router router;
  HOSTLER_RETURN_IF_ERROR(router.AddTarget(NewLocalTarget("stub", {}, std::move(owned))));
  Metrics metrics(&router);
  NoLog log;
  Service service(&router, &metrics, &log);
  HttpServer::Options http_options;
  http_options.port = 0;
  GrpcServer::Options grpc_options;
  HOSTLER_ASSIGN_OR_RETURN(const auto http, HttpServer::Start(http_options, &service));
  HOSTLER_ASSIGN_OR_RETURN(const auto grpc, GrpcServer::Start(grpc_options, &service));

  const auto wait = [clients] { return clients->Wait(); };
  clients->Tell({http->port(), grpc->port()});
  HOSTLER_RETURN_IF_ERROR(wait());  // the code is warm
  const double before = ResidentMiB();
  clients->Tell({});
  HOSTLER_RETURN_IF_ERROR(wait());  // idle connections are open
  if (flags.clients.idle > 0) {
    fmt::print("  idle           {} connections, {:.1f} KiB each\n", flags.clients.idle,
               (ResidentMiB() - before) * 1024 / flags.clients.idle);
  }
  if (flags.rest_s > 0) {
    const Used from = UsedBy(engine);
    std::this_thread::sleep_for(std::chrono::duration<double>(flags.rest_s));
    const Used to = UsedBy(engine);
    fmt::print("  at rest        {:.3f}% of a core, {} context switches in {} s\n",
               (to.user_s + to.system_s - from.user_s - from.system_s) / flags.rest_s * 100,
               to.switches - from.switches, flags.rest_s);
  }
  const Used from = UsedBy(engine);
  clients->Tell({});
  HOSTLER_RETURN_IF_ERROR(wait());  // all tokens are read
  Report(from, UsedBy(engine));
  clients->Tell({});
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("CPU time that serving costs for each token, besides the model");
  Flags flags;
  app.add_option("model", flags.model, "Whose tokenizer and vocabulary serve")->required();
  app.add_option("--step-ms", flags.step_ms, "How long a step sleeps")->capture_default_str();
  app.add_option("--rest-s", flags.rest_s, "Watch the server at rest so long first");
  app.add_option("--clients", flags.clients.clients, "Streaming at once")->capture_default_str();
  app.add_option("--tokens", flags.clients.tokens, "Of each answer")->capture_default_str();
  app.add_option("--rounds", flags.clients.rounds, "Requests of each client")
      ->capture_default_str();
  app.add_option("--idle", flags.clients.idle, "HTTP connections that do nothing");
  app.add_flag("--grpc", flags.clients.grpc, "Stream over gRPC, not HTTP");
  CLI11_PARSE(app, argc, argv);

  ClientProcess clients(flags.clients);  // before there are threads
  fmt::print("{} clients over {}, steps of {} ms\n", flags.clients.clients,
             flags.clients.grpc ? "gRPC" : "HTTP", flags.step_ms);
  std::fflush(stdout);
  const absl::Status status = Serve(flags, &clients);
  if (!status.ok()) fmt::print(stderr, "{}\n", status.ToString());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) { return hostler::Main(argc, argv); }
