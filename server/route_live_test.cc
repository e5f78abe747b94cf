// Routing before targets that take time, fail and come back: the whole way from
// Service::Start, with threads.
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "engine/embed/tiny_bert.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/policy/scored_policy.h"
#include "router/quality/predictor.h"
#include "router/quality/prompt_embedder.h"
#include "router/quality/trainer.h"
#include "server/route_report.h"
#include "server/service.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Answers `capacity` requests at a time, each in `service`; others wait.
class FakeTarget : public Target {
 public:
  FakeTarget(std::string name, Price price, int capacity, milliseconds service)
      : name_(std::move(name)), price_(price), service_(service) {
    for (int i = 0; i < capacity; ++i) threads_.emplace_back([this] { Work(); });
  }
  ~FakeTarget() override { Drain(0); }

  const std::string& name() const override { return name_; }

  TargetSnapshot snapshot() const override {
    std::lock_guard lock(mutex_);
    TargetSnapshot snapshot;
    snapshot.name = name_;
    snapshot.price = price_;
    snapshot.running = running_;
    snapshot.waiting = int(queue_.size());
    snapshot.max_concurrency = int(threads_.size());
    return snapshot;
  }

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override {
    std::lock_guard lock(mutex_);
    if (dead_) return absl::UnavailableError(name_ + " is dead");
    queue_.push_back({std::make_shared<GenerateStream>(), request.arrival});
    ready_.notify_one();
    return queue_.back().stream;
  }

  Engine* engine() override { return nullptr; }

  void Drain(int) override {
    Kill();
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

  // Everything under way fails, and all that comes.
  void Kill() {
    std::deque<Job> left;
    {
      std::lock_guard lock(mutex_);
      dead_ = true;
      left.swap(queue_);
      ready_.notify_all();
    }
    for (Job& job : left) job.stream->End(absl::UnavailableError(name_ + " died"), {}, {});
  }

  int answered() const { return answered_; }

 private:
  struct Job {
    std::shared_ptr<GenerateStream> stream;
    Clock::time_point arrival;
  };

  void Work() {
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [this] { return dead_ || !queue_.empty(); });
        if (dead_) return;
        job = std::move(queue_.front());
        queue_.pop_front();
        ++running_;
      }
      const double queued = Ms(job.arrival);
      bool dead = false;
      {
        std::unique_lock lock(mutex_);
        dead = ready_.wait_for(lock, service_, [this] { return dead_; });
      }
      {
        std::lock_guard lock(mutex_);
        --running_;
      }
      if (dead) {
        job.stream->End(absl::UnavailableError(name_ + " died"), {}, {});
        continue;
      }
      ++answered_;
      GenerateEvent event;
      event.text = name_;
      event.token_ids = {1};
      event.finish_reason = FinishReason::kStop;
      const double now = Ms(job.arrival);
      job.stream->Push(std::move(event));
      job.stream->End(absl::OkStatus(), {.prompt_tokens = 10, .completion_tokens = 1},
                      {.queued_ms = queued, .first_token_ms = now, .total_ms = now});
    }
  }

  static double Ms(Clock::time_point from) {
    return std::chrono::duration<double, std::milli>(Clock::now() - from).count();
  }

  const std::string name_;
  const Price price_;
  const milliseconds service_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Job> queue_;
  int running_ = 0;
  bool dead_ = false;
  std::atomic<int> answered_{0};
  std::vector<std::thread> threads_;
};

class NoLog : public RequestLog {
 public:
  void Write(const RequestRecord&) override {}
};

class RouteLiveTest : public testing::Test {
 protected:
  // Good and slow: 50 a second. Poor and fast: 1,600 a second.
  void SetUp() override {
    auto large = std::make_unique<FakeTarget>("large", Price{10, 10}, 4, milliseconds(80));
    auto small = std::make_unique<FakeTarget>("small", Price{1, 1}, 16, milliseconds(10));
    large_ = large.get();
    small_ = small.get();
    ASSERT_TRUE(router_.AddTarget(std::move(large)).ok());
    ASSERT_TRUE(router_.AddTarget(std::move(small)).ok());
    ScoredRoutingOptions options;
    options.targets = {{.target = "large", .quality = 0.9}, {.target = "small", .quality = 0.6}};
    options.limits.deadline_s = 1;
    ASSERT_TRUE(router_
                    .AddVirtualModel(
                        "auto", std::make_unique<ScoredRoutingPolicy>(options, NewBestEffort()))
                    .ok());
    metrics_ = std::make_unique<Metrics>(&router_);
    service_ = std::make_unique<Service>(&router_, metrics_.get(), &log_);
  }

  struct Answer {
    std::string text;
    absl::Status status;
    double seconds = 0;
  };

  Answer Ask(const std::string& model = "auto",
             const std::string& prompt = "a question of some forty characters, yes") {
    GenerateRequest request;
    request.id = Service::NewId("cmpl-");
    request.model = model;
    request.prompt = prompt;
    const Clock::time_point begin = Clock::now();
    Answer answer;
    auto call = service_->Start(std::move(request), {"http", "/v1/completions", "test"});
    if (!call.ok()) {
      answer.status = call.status();
      return answer;
    }
    std::mutex mutex;
    std::condition_variable changed;
    int news = 0;
    (*call)->OnReady([&] {
      std::lock_guard lock(mutex);
      ++news;
      changed.notify_one();
    });
    GenerateEvent event;
    for (;;) {
      while ((*call)->TryPop(&event)) answer.text += event.text;
      if ((*call)->ended()) break;
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return news > 0; });
      news = 0;
    }
    answer.status = (*call)->status();
    answer.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    (*call)->OnReady(nullptr);
    return answer;
  }

  // Requests at a steady rate, whatever becomes of them.
  std::vector<Answer> Load(double per_second, double seconds) {
    std::vector<Answer> answers(size_t(per_second * seconds));
    std::vector<std::thread> clients;
    const Clock::time_point begin = Clock::now();
    for (size_t i = 0; i < answers.size(); ++i) {
      std::this_thread::sleep_until(begin + std::chrono::duration<double>(i / per_second));
      clients.emplace_back([this, &answers, i] { answers[i] = Ask(); });
    }
    for (std::thread& client : clients) client.join();
    return answers;
  }

  static double ShareOf(const std::vector<Answer>& answers, const std::string& text) {
    const auto is = [&](const Answer& answer) { return answer.text == text; };
    return double(std::count_if(answers.begin(), answers.end(), is)) / answers.size();
  }

  static double P99(const std::vector<Answer>& answers) {
    std::vector<double> seconds;
    for (const Answer& answer : answers) seconds.push_back(answer.seconds);
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() * 99 / 100];
  }

  Router router_;
  FakeTarget* large_;
  FakeTarget* small_;
  NoLog log_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Service> service_;
};

TEST_F(RouteLiveTest, BestEffortHoldsTheDeadlineThroughAnOverloadAndComesBack) {
  const std::vector<Answer> calm = Load(25, 1);
  EXPECT_GE(ShareOf(calm, "large"), 0.9);
  // Ten times what the better model can do.
  const std::vector<Answer> storm = Load(500, 3);
  for (const Answer& answer : storm) ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_LT(P99(storm), 1.0);
  EXPECT_GE(ShareOf(storm, "small"), 0.5) << "the model gives way";
  EXPECT_GE(ShareOf(storm, "large"), 0.02) << "but is not left idle";
  const std::vector<Answer> after = Load(25, 1);
  EXPECT_GE(ShareOf(after, "large"), 0.9) << "and back";
  RecordProperty("storm_p99_ms", int(P99(storm) * 1000));
  fmt::print(
      "p99 calm {:.3f} s, storm {:.3f} s, after {:.3f} s; large answered {:.2f} of the storm\n",
      P99(calm), P99(storm), P99(after), ShareOf(storm, "large"));
}

TEST_F(RouteLiveTest, NothingThatHadNotStartedIsLostWhenATargetDies) {
  std::vector<Answer> answers(20);
  std::vector<std::thread> clients;
  for (Answer& answer : answers) clients.emplace_back([this, &answer] { answer = Ask(); });
  std::this_thread::sleep_for(milliseconds(40));
  large_->Kill();
  for (std::thread& client : clients) client.join();
  int lost = 0;
  for (const Answer& answer : answers) {
    lost += !answer.status.ok();
    if (answer.status.ok()) {
      EXPECT_TRUE(answer.text == "large" || answer.text == "small") << answer.text;
    } else {
      EXPECT_EQ(answer.text, "") << "a failure is told, nothing is cut";
    }
  }
  EXPECT_EQ(lost, 0);
  const Answer next = Ask();
  EXPECT_EQ(next.text, "small") << next.status;
  EXPECT_THAT(metrics_->Expose(), testing::HasSubstr("hostler:route_fallbacks_total"));
}

// Both ask for the same quality; which target has it, only the embedding tells: no two
// prompts of training have a word in common, and what is asked here was not among them.
class EmbeddedLiveTest : public RouteLiveTest {
 protected:
  static constexpr char kSum[] = "what is the sum of two and two", kProof[] = "proof ? proof ? a b";

  void SetUp() override {
    RouteLiveTest::SetUp();
    bert_.Write(directory_);
    auto encoder = Encoder::Load(directory_.path(), {.threads = 1});
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    RoutingSet set{.name = "toy", .models = {"large", "small"}, .prices = {{}, {}}, .rows = {}};
    for (int i = 0; i < 200; ++i) {
      const bool sum = i % 2 == 0;
      RoutingRow row;
      row.subject = sum ? "sums" : "proofs";
      row.prompt = fmt::format("x{}", i);
      row.quality = {1, sum ? 1.0f : 0.0f};
      row.embedding.resize(TinyBert::kWidth);
      ASSERT_TRUE((*encoder)->Encode(sum ? kSum : kProof, row.embedding).ok());
      set.rows.push_back(std::move(row));
    }
    auto model = TrainRouter(std::vector<RoutingSet>{set}, {.neighbour_weight = 0.8f});
    ASSERT_TRUE(model.ok()) << model.status();
    model->encoder = (*encoder)->fingerprint();
    model->encoder_tokens = (*encoder)->max_tokens();
    directory_.Write("router.bin", SerializeRouterModel(*model));
    embedder_ = std::make_unique<PromptEmbedder>(*std::move(encoder), std::chrono::minutes(1));
    AddModel("embedded", embedder_.get());
    AddModel("plain", nullptr);
  }

  void AddModel(const std::string& name, PromptEmbedder* embedder) {
    ScoredRoutingOptions options;
    options.targets = {{.target = "large"}, {.target = "small"}};
    options.router_file = directory_.file("router.bin");
    options.load = QualityPredictor::Load;
    options.embedder = embedder;
    options.limits.min_quality = 0.8;
    auto policy = std::make_unique<ScoredRoutingPolicy>(options, NewCostQuality(std::nullopt));
    ASSERT_TRUE(policy->quality()->status().ok()) << policy->quality()->status();
    ASSERT_TRUE(router_.AddVirtualModel(name, std::move(policy)).ok());
  }

  Json Explain(const std::string& model) {
    GenerateRequest request;
    request.model = model;
    request.prompt = std::string(kSum);
    const auto decision = service_->Explain(request);
    EXPECT_TRUE(decision.ok()) << decision.status();
    return DecisionJson(*decision);
  }

  TempDir directory_;
  TinyBert bert_;
  std::unique_ptr<PromptEmbedder> embedder_;
};

TEST_F(EmbeddedLiveTest, TheEmbeddingDecidesWhereTheWordsSayNothing) {
  std::vector<std::thread> clients;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      wrong += Ask("embedded", i % 2 == 0 ? kSum : kProof).text != (i % 2 == 0 ? "small" : "large");
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(Ask("plain", kSum).text, Ask("plain", kProof).text) << "the words say nothing";

  EXPECT_EQ(Explain("embedded")["embedding"], "used");
  EXPECT_EQ(Explain("plain")["embedding"], "no_encoder");
  EXPECT_FALSE(Explain("auto").contains("embedding"));
  const std::string metrics = metrics_->Expose();
  for (const char* line :
       {"hostler:route_embedding_total{result=\"used\",virtual_model=\"embedded\"} 16",
        "hostler:route_embed_seconds_count{virtual_model=\"embedded\"} 16",
        "hostler:route_encoder_ok{virtual_model=\"embedded\"} 1",
        "hostler:route_encoder_ok{virtual_model=\"plain\"} 0"}) {
    EXPECT_NE(metrics.find(line), metrics.npos) << line;
  }
  EXPECT_EQ(metrics.find("encoder_ok{virtual_model=\"auto\"}"), metrics.npos);
}

}  // namespace
}  // namespace hostler
