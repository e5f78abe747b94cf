#include "server/service.h"

#include <mutex>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/test_engine.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using testing::Not;

// Keeps what was written.
class RecordingLog : public RequestLog {
 public:
  void Write(const RequestRecord& record) override {
    std::lock_guard lock(mutex_);
    records_.push_back(record);
  }
  std::vector<RequestRecord> records() {
    std::lock_guard lock(mutex_);
    return records_;
  }

 private:
  std::mutex mutex_;
  std::vector<RequestRecord> records_;
};

class ServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    AddEngine("small", 1);
    AddEngine("large", 8);
    ASSERT_TRUE(
        router_.AddVirtualModel("auto", NewStaticPolicy({{"small", 5}, {"large", 0}})).ok());
    metrics_ = std::make_unique<Metrics>(&router_);
    service_ = std::make_unique<Service>(&router_, metrics_.get(), &log_);
  }

  void AddEngine(const std::string& name, double price) {
    auto engine = std::make_unique<TestEngine>();
    engines_[name] = engine.get();
    ASSERT_TRUE(router_.AddTarget(NewLocalTarget(name, {price, price}, std::move(engine))).ok());
  }

  absl::StatusOr<std::unique_ptr<Call>> Start(const std::string& model, int n = 1) {
    GenerateRequest request;
    request.id = Service::NewId("cmpl-");
    request.model = model;
    request.prompt = std::string("a secret");
    request.n = n;
    return service_->Start(std::move(request), {"http", "/v1/completions", "127.0.0.1:5"});
  }

  static GenerateEvent Token(int index, std::optional<FinishReason> finish = {}) {
    GenerateEvent event;
    event.index = index;
    event.text = "x";
    event.token_ids = {7};
    event.finish_reason = finish;
    return event;
  }

  std::string Exposed() { return metrics_->Expose(); }

  Router router_;
  std::map<std::string, TestEngine*> engines_;
  RecordingLog log_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Service> service_;
  GenerateEvent event_;  // the last one that was read
};

TEST_F(ServiceTest, AccountsForARequestOnceItHasEnded) {
  auto call = Start("small");
  ASSERT_TRUE(call.ok());
  EXPECT_EQ((*call)->decision().target, "small");
  auto [request, stream] = engines_["small"]->WaitForRequest(0);
  EXPECT_EQ(request.id, (*call)->id());
  stream->Push(Token(0));
  stream->Push(Token(0, FinishReason::kLength));
  stream->End(absl::OkStatus(), {.prompt_tokens = 8, .completion_tokens = 2},
              {.queued_ms = 1, .first_token_ms = 2, .total_ms = 3});
  EXPECT_TRUE((*call)->TryPop(&event_));
  EXPECT_TRUE((*call)->TryPop(&event_));
  EXPECT_FALSE((*call)->TryPop(&event_));
  EXPECT_TRUE((*call)->ended());
  call->reset();

  ASSERT_EQ(log_.records().size(), 1u);
  const RequestRecord record = log_.records()[0];
  EXPECT_EQ(record.target, "small");
  EXPECT_EQ(record.route, "explicit");
  EXPECT_EQ(record.finish_reason, "length");
  EXPECT_EQ(record.usage.completion_tokens, 2);
  EXPECT_EQ(record.endpoint, "/v1/completions");
  EXPECT_TRUE(record.status.ok());
  const std::string text = Exposed();
  EXPECT_THAT(text, HasSubstr("hostler:request_success_total{finished_reason=\"length\",model_name="
                              "\"small\"} 1"));
  EXPECT_THAT(text, HasSubstr("hostler:time_to_first_token_seconds_count{model_name=\"small\"} 1"));
  EXPECT_THAT(text, HasSubstr("hostler:inter_token_latency_seconds_count{model_name=\"small\"} 1"));
  EXPECT_THAT(text, HasSubstr("hostler:request_prompt_tokens_sum{model_name=\"small\"} 8"));
}

TEST_F(ServiceTest, TimesBetweenTokensAreEachSequencesOwn) {
  auto call = Start("small", 2);
  ASSERT_TRUE(call.ok());
  auto stream = engines_["small"]->WaitForRequest(0).second;
  for (int index : {0, 1, 0, 1, 1}) stream->Push(Token(index));
  while ((*call)->TryPop(&event_)) {
  }
  EXPECT_THAT(Exposed(),
              HasSubstr("hostler:inter_token_latency_seconds_count{model_name=\"small\"} 3"));
}

TEST_F(ServiceTest, ACallLetGoOfCancelsAndIsLoggedAsAborted) {
  auto call = Start("small");
  ASSERT_TRUE(call.ok());
  auto stream = engines_["small"]->WaitForRequest(0).second;
  stream->Push(Token(0));
  EXPECT_TRUE((*call)->TryPop(&event_));
  call->reset();
  EXPECT_TRUE(stream->cancelled());
  ASSERT_EQ(log_.records().size(), 1u);
  EXPECT_EQ(log_.records()[0].finish_reason, "abort");
  EXPECT_EQ(log_.records()[0].usage.completion_tokens, 1);
  EXPECT_THAT(Exposed(), HasSubstr("{finished_reason=\"abort\",model_name=\"small\"} 1"));
}

TEST_F(ServiceTest, AFailureOfTheEngineEndsAsError) {
  auto call = Start("small");
  ASSERT_TRUE(call.ok());
  engines_["small"]->WaitForRequest(0).second->End(absl::DataLossError("disk"), {}, {});
  EXPECT_FALSE((*call)->TryPop(&event_));
  EXPECT_EQ(log_.records().at(0).finish_reason, "error");
  EXPECT_EQ((*call)->status(), absl::DataLossError("disk"));
}

TEST_F(ServiceTest, VirtualModelsAreDecidedAndCounted) {
  auto call = Start("auto");
  ASSERT_TRUE(call.ok());
  EXPECT_EQ((*call)->decision().target, "small");
  EXPECT_THAT(Exposed(),
              HasSubstr("hostler:route_decisions_total{policy=\"static\",rule=\"rules\",target="
                        "\"small\",virtual_model=\"auto\"} 1"));
  ASSERT_TRUE(Start("large").ok());
  ASSERT_TRUE(Start("").ok());
  EXPECT_THAT(Exposed(), Not(HasSubstr("target=\"large\"")));
}

TEST_F(ServiceTest, RefusalsAreCountedAndLogged) {
  EXPECT_TRUE(absl::IsNotFound(Start("no such model").status()));
  engines_["large"]->refuse = absl::ResourceExhaustedError("the queue is full");
  EXPECT_TRUE(absl::IsResourceExhausted(Start("large").status()));
  const std::string text = Exposed();
  EXPECT_THAT(text,
              HasSubstr("hostler:requests_refused_total{model_name=\"\",reason=\"not_found\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("no such model"))) << "labels are not the client's to make";
  EXPECT_THAT(text, HasSubstr("hostler:requests_refused_total{model_name=\"large\",reason="
                              "\"resource_exhausted\"} 1"));
  ASSERT_EQ(log_.records().size(), 2u);
  EXPECT_EQ(log_.records()[0].model, "no such model");
  EXPECT_EQ(log_.records()[0].target, "");
  EXPECT_EQ(log_.records()[1].target, "large");
}

TEST_F(ServiceTest, RequestsThatCannotBeReadAreRefusalsToo) {
  service_->CountMalformed(FieldError("n", "must be positive"), {"grpc", "Generate", "peer"});
  EXPECT_THAT(Exposed(), HasSubstr("hostler:requests_refused_total{model_name=\"\",reason="
                                   "\"invalid_argument\"} 1"));
  ASSERT_EQ(log_.records().size(), 1u);
  EXPECT_EQ(log_.records()[0].endpoint, "Generate");
  EXPECT_EQ(ErrorField(log_.records()[0].status), "n");
}

TEST_F(ServiceTest, TakesNothingMoreOnceDraining) {
  EXPECT_TRUE(service_->ready());
  auto call = Start("small");
  service_->SetDraining();
  EXPECT_FALSE(service_->ready());
  EXPECT_TRUE(absl::IsUnavailable(Start("small").status()));
  engines_["small"]->WaitForRequest(0).second->Push(Token(0));
  EXPECT_TRUE((*call)->TryPop(&event_)) << "what runs goes on";
}

TEST_F(ServiceTest, FindsEnginesByExplicitNameOnly) {
  EXPECT_EQ(*service_->EngineFor("large"), engines_["large"]);
  EXPECT_EQ(*service_->EngineFor(""), engines_["small"]);
  EXPECT_TRUE(absl::IsNotFound(service_->EngineFor("auto").status()));
  EXPECT_TRUE(absl::IsNotFound(service_->EngineFor("other").status()));
}

TEST_F(ServiceTest, ACallbackMayLetGoOfItsCall) {
  auto call = Start("small");
  ASSERT_TRUE(call.ok());
  auto stream = engines_["small"]->WaitForRequest(0).second;
  Call* raw = call->get();
  bool called = false;
  raw->OnReady([&] {
    called = true;
    call->reset();
  });
  stream->Push(Token(0));
  EXPECT_TRUE(called);
  EXPECT_TRUE(stream->cancelled());
}

TEST(ServiceIdTest, IdsAreDistinctAndKeepTheirPrefix) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = Service::NewId("chatcmpl-");
    EXPECT_EQ(id.rfind("chatcmpl-", 0), 0u);
    EXPECT_EQ(id.size(), 9u + 24u);
    EXPECT_TRUE(seen.insert(id).second);
  }
}

TEST(MetricsTest, ReadsEveryEngineAtEachScrape) {
  Router router;
  auto owned = std::make_unique<TestEngine>();
  TestEngine* engine = owned.get();
  ASSERT_TRUE(router.AddTarget(NewLocalTarget("m", {}, std::move(owned))).ok());
  Metrics metrics(&router);
  engine->reported.running = 3;
  engine->reported.waiting = 2;
  engine->reported.kv_blocks_total = 100;
  engine->reported.kv_blocks_used = 25;
  engine->reported.kv_blocks_cached = 50;
  engine->reported.prefix_queried_tokens = 90;
  engine->reported.prefix_found_tokens = 60;
  engine->reported.prefix_evictions = 7;
  engine->reported.schedule.width = 2;
  engine->reported.schedule.longest_wait_seconds = 1.5;
  engine->plan = {.budget = 1ull << 40, .kv = 300, .experts = 400};
  std::string text = metrics.Expose();
  for (const char* line :
       {"hostler:num_requests_running{model_name=\"m\"} 3\n",
        "hostler:num_requests_waiting{model_name=\"m\"} 2\n",
        "hostler:kv_cache_usage_perc{model_name=\"m\"} 0.25\n",
        "hostler:kv_blocks_cached{model_name=\"m\"} 50\n",
        "hostler:prefix_cache_queries_total{model_name=\"m\"} 90\n",
        "hostler:prefix_cache_hits_total{model_name=\"m\"} 60\n",
        "hostler:prefix_cache_evictions_total{model_name=\"m\"} 7\n",
        "hostler:decode_width{model_name=\"m\"} 2\n",
        "hostler:decode_longest_wait_seconds{model_name=\"m\"} 1.5\n",
        "hostler:memory_bytes{model_name=\"m\",part=\"kv\"} 300\n",
        "hostler:memory_bytes{model_name=\"m\",part=\"experts\"} 400\n",
        "hostler:memory_budget_bytes{model_name=\"m\"} 1099511627776\n",
        "hostler:request_success_total{finished_reason=\"stop\",model_name=\"m\"} 0\n",
        "hostler:http_connections 0\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("hostler:expert_cache_hits_total{"))) << "it is a dense one";
  engine->reported.running = 4;
  metrics.SetHttpConnections(4);
  text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("hostler:num_requests_running{model_name=\"m\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("hostler:http_connections 4\n"));
}

// Metrics of a router whose only target is an engine "m".
struct OneEngine {
  OneEngine() {
    auto owned = std::make_unique<TestEngine>();
    engine = owned.get();
    EXPECT_TRUE(router.AddTarget(NewLocalTarget("m", {}, std::move(owned))).ok());
  }
  Router router;
  TestEngine* engine = nullptr;
  Metrics metrics{&router};
};

TEST(MetricsTest, TellsExpertReadsByClassAndResidencyByLayer) {
  OneEngine served;
  const Metrics& metrics = served.metrics;
  TestEngine* const engine = served.engine;
  ExpertCacheStats& experts = engine->reported.experts;
  experts.hits = 11;
  experts.misses = 5;
  experts.read_errors = 1;
  experts.read_retries = 2;
  experts.stall_seconds = 0.25;
  experts.reads = 20;
  experts.read_bytes = 1ull << 40;
  experts.speculative_reads = 6;
  experts.speculative_bytes = 600;
  experts.preload_reads = 4;
  experts.preload_bytes = 400;
  experts.speculative_hits = 3;
  experts.speculative_late = 2;
  experts.speculative_wasted_bytes = 100;
  experts.speculative_useful_bytes = 500;
  experts.reads_in_flight = 8;
  experts.speculative_in_flight = 2;
  experts.preloads_in_flight = 1;
  experts.reads_queued = 7;
  experts.speculative_queued = 3;
  experts.preloads_left = 9;
  experts.prefetch.least_chance = 0.5;
  ExpertReport report;
  report.layers = {{1, 4}, {4, 4}};
  report.demand_reads.counts[0] = 3;   // up to 50 microseconds
  report.demand_reads.counts[4] = 1;   // up to 100
  report.demand_reads.counts[63] = 1;  // beyond all bounds
  report.demand_reads.seconds = 4;
  report.miss_ratios = {{0, 1}, {500, 0.5}, {1000, 0}};
  experts.model_bytes = 1000;
  engine->expert_report = report;
  const std::string text = metrics.Expose();
  for (const std::string line :
       {"hits_total{model_name=\"m\",tier=\"dram\",class=\"demand\"} 8",
        "hits_total{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 3",
        "misses_total{model_name=\"m\",tier=\"dram\",class=\"demand\"} 3",
        "misses_total{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 2",
        "reads_total{model_name=\"m\",tier=\"dram\",class=\"demand\"} 10",
        "reads_total{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 6",
        "reads_total{model_name=\"m\",tier=\"dram\",class=\"preload\"} 4",
        "read_bytes_total{model_name=\"m\",tier=\"dram\",class=\"demand\"} 1099511626776",
        "reads_in_flight{model_name=\"m\",tier=\"dram\",class=\"demand\"} 5",
        "reads_queued{model_name=\"m\",tier=\"dram\",class=\"demand\"} 4",
        "reads_queued{model_name=\"m\",tier=\"dram\",class=\"preload\"} 9",
        "wasted_bytes_total{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 100",
        "useful_bytes_total{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 500",
        "prefetch_least_chance{model_name=\"m\",tier=\"dram\",class=\"speculative\"} 0.5",
        "stall_seconds_total{model_name=\"m\",tier=\"dram\"} 0.25",
        "read_errors_total{model_name=\"m\",tier=\"dram\"} 1",
        "read_retries_total{model_name=\"m\",tier=\"dram\"} 2",
        "miss_ratio{model_name=\"m\",tier=\"dram\",resident=\"0.5\"} 0.5",
        "miss_ratio{model_name=\"m\",tier=\"dram\",resident=\"1.0\"} 0",
        "layer_resident_ratio{model_name=\"m\",tier=\"dram\",layer=\"0\"} 0.25",
        "layer_resident_ratio{model_name=\"m\",tier=\"dram\",layer=\"1\"} 1",
        "demand_read_seconds_count{model_name=\"m\",tier=\"dram\",class=\"demand\"} 5",
        "demand_read_seconds_sum{model_name=\"m\",tier=\"dram\",class=\"demand\"} 4"}) {
    EXPECT_THAT(text, HasSubstr("hostler:expert_cache_" + line + "\n"));
  }
  const std::string bucket =
      "hostler:expert_cache_demand_read_seconds_bucket{model_name=\"m\",tier=\"dram\","
      "class=\"demand\",le=\"";
  for (const char* rest : {"5e-05\"} 3\n", "0.0001\"} 4\n", "+Inf\"} 5\n"}) {
    EXPECT_THAT(text, HasSubstr(bucket + rest));
  }
}

TEST(MetricsTest, TellsTheTiersApart) {
  OneEngine served;
  const Metrics& metrics = served.metrics;
  TestEngine* const engine = served.engine;
  ExpertCacheStats& experts = engine->reported.experts;
  engine->expert_report = ExpertReport();
  experts.hits = 11;
  EXPECT_THAT(metrics.Expose(), Not(HasSubstr("hostler:expert_cache_copies_total{")));
  experts.on_device = true;
  experts.copies = 7;
  experts.copied_bytes = 700;
  experts.promotions = 1;
  experts.host_experts = 5;
  experts.host_rows = 6;
  EXPECT_THAT(metrics.Expose(), Not(HasSubstr("tier=\"dram\""))) << "none is beneath";
  experts.host = {
      .hits = 4, .misses = 3, .evictions = 2, .resident_bytes = 80, .capacity_bytes = 90};
  const std::string text = metrics.Expose();
  for (const std::string line : {"hits_total{model_name=\"m\",tier=\"hbm\",class=\"demand\"} 11",
                                 "hits_total{model_name=\"m\",tier=\"dram\"} 4",
                                 "misses_total{model_name=\"m\",tier=\"dram\"} 3",
                                 "evictions_total{model_name=\"m\",tier=\"dram\"} 2",
                                 "resident_bytes{model_name=\"m\",tier=\"dram\"} 80",
                                 "capacity_bytes{model_name=\"m\",tier=\"dram\"} 90",
                                 "copies_total{model_name=\"m\",tier=\"hbm\"} 7",
                                 "copied_bytes_total{model_name=\"m\",tier=\"hbm\"} 700",
                                 "promotions_total{model_name=\"m\",tier=\"hbm\"} 1",
                                 "host_experts_total{model_name=\"m\",tier=\"hbm\"} 5",
                                 "host_rows_total{model_name=\"m\",tier=\"hbm\"} 6"}) {
    EXPECT_THAT(text, HasSubstr("hostler:expert_cache_" + line + "\n"));
  }
}

TEST(MetricsTest, SpreadsAStepsTimeOverItsTokens) {
  Metrics metrics(nullptr);
  metrics.ObserveInterToken("m", 3.0, 3);
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("hostler:inter_token_latency_seconds_count{model_name=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("hostler:inter_token_latency_seconds_sum{model_name=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("hostler:time_per_output_token_seconds_count{model_name=\"m\"} 3\n"));
}

RequestRecord SampleRecord() {
  RequestRecord record;
  record.id = "cmpl-1";
  record.transport = "http";
  record.endpoint = "/v1/completions";
  record.peer = "127.0.0.1:9";
  record.model = "auto";
  record.target = "small";
  record.route = "static: 8 prompt tokens <= 200, cheapest of 2";
  record.finish_reason = "stop";
  record.usage = {.prompt_tokens = 8, .completion_tokens = 3};
  record.timings.total_ms = 12.5;
  return record;
}

std::string Logged(const RequestRecord& record, bool json) {
  testing::internal::CaptureStderr();
  NewRequestLog(json)->Write(record);
  return testing::internal::GetCapturedStderr();
}

TEST(RequestLogTest, WritesOneJsonObjectALine) {
  const std::string line = Logged(SampleRecord(), true);
  ASSERT_EQ(line.find('\n'), line.size() - 1);
  const auto json = nlohmann::json::parse(line, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << line;
  EXPECT_EQ(json["id"], "cmpl-1");
  EXPECT_EQ(json["target"], "small");
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["prompt_tokens"], 8);
  EXPECT_EQ(json["total_ms"], 12.5);
  EXPECT_FALSE(json.contains("error"));
}

TEST(RequestLogTest, WritesKeysAndValuesAsText) {
  const std::string line = Logged(SampleRecord(), false);
  EXPECT_THAT(line, HasSubstr("id=cmpl-1 transport=http endpoint=/v1/completions"));
  EXPECT_THAT(line, HasSubstr("route=\"static: 8 prompt tokens <= 200, cheapest of 2\""));
  EXPECT_THAT(line, HasSubstr("total_ms=12.5"));
}

TEST(RequestLogTest, AClientCannotForgeALine) {
  RequestRecord record = SampleRecord();
  record.model = "x\ntime=now id=forged \xff";
  for (const bool json : {false, true}) {
    const std::string line = Logged(record, json);
    EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
  }
}

TEST(RequestLogTest, KeepsTheTextOfABadRequestOut) {
  RequestRecord record = SampleRecord();
  record.status = FieldError("messages[0].content", "\"a secret\" is no content");
  for (const bool json : {false, true}) {
    const std::string line = Logged(record, json);
    EXPECT_THAT(line, Not(HasSubstr("secret")));
    EXPECT_THAT(line, HasSubstr("messages[0].content"));
  }
}

}  // namespace
}  // namespace hostler
