// Requests to a fake upstream on loopback, well-behaved and hostile.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/base/wire_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/upstream/fake_upstream.h"
#include "router/upstream/test_certificate.h"
#include "router/upstream/upstream_target.h"
#include "router/upstream_body.h"

namespace hostler {
namespace {

using std::chrono::steady_clock;
using testing::HasSubstr;
using testing::Not;

constexpr char kStreamed[] = R"({"model":"up","messages":[],"stream":true})";
constexpr char kWhole[] = R"({"model":"up","messages":[]})";

GenerateRequest ChatRequest(const std::string& json) {
  GenerateRequest request;
  request.id = "req-1";
  request.model = "up";
  request.prompt = ChatPrompt{};
  request.original = std::make_shared<UpstreamBody>(
      UpstreamBody{"/chat/completions", json, json.find("\"stream\":true") != json.npos, false,
                   "Bearer of-the-client", absl::OkStatus()});
  return request;
}

struct Answer {
  absl::Status status;
  std::string text;
  std::vector<std::string> wires;
  std::optional<FinishReason> finish_reason;
  Usage usage;
  Timings timings;
};

Answer ReadAnswer(GenerateStream* stream) {
  Answer answer;
  while (const std::optional<GenerateEvent> event = stream->Pop()) {
    answer.text += event->text;
    if (!event->wire.empty()) answer.wires.push_back(event->wire);
    if (event->finish_reason.has_value()) answer.finish_reason = event->finish_reason;
  }
  answer.status = stream->status();
  answer.usage = stream->usage();
  answer.timings = stream->timings();
  return answer;
}

template <typename Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

class UpstreamTest : public testing::Test {
 protected:
  UpstreamTest() {
    options_.name = "up";
    options_.model = "real";
    options_.health.interval_s = 0;
  }

  // While it lives handlers may use what was declared before it.
  class Running {
   public:
    explicit Running(UpstreamTest* test) : test_(test) {}
    ~Running() { test_->Stop(); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

   private:
    UpstreamTest* const test_;
  };

  Running Start(FakeUpstream::Handler handler) {
    fake_ = std::make_unique<FakeUpstream>(std::move(handler));
    options_.url = fake_->url();
    Open();
    return Running(this);
  }
  // The target goes first, so that no handler waits for it.
  void Stop() {
    target_.reset();
    fake_.reset();
  }
  void Open() {
    auto target = NewUpstreamTarget(options_, io_);
    ASSERT_TRUE(target.ok()) << target.status();
    target_ = *std::move(target);
  }
  ~UpstreamTest() override { Stop(); }

  Answer Ask(const std::string& json = kStreamed) {
    auto stream = target_->Submit(ChatRequest(json));
    if (stream.ok()) return ReadAnswer(stream->get());
    Answer refused;
    refused.status = stream.status();
    return refused;
  }
  uint64_t Errors(UpstreamFailure failure) const {
    return target_->upstream_stats()->errors[size_t(failure)];
  }

  static void Stream(FakeConnection& connection, const std::string& text = "Hello") {
    connection.BeginStream();
    connection.Data(FakeDelta(text));
    connection.Data(FakeFinish());
    connection.Data(FakeUsage(9, 4));
    connection.Data("[DONE]");
    connection.EndStream();
  }

  const std::shared_ptr<UpstreamIo> io_ = std::make_shared<UpstreamIo>();
  UpstreamOptions options_;
  std::unique_ptr<FakeUpstream> fake_;
  std::unique_ptr<Target> target_;
};

TEST_F(UpstreamTest, StreamsWhatComesByteForByteAndReadsIt) {
  options_.price = Price{1, 10};
  const std::string odd = R"({ "choices":[{"delta":{"content":"Hi","new":1.50}}],"more":[null] })";
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Chunk(": ping\n\n");
    connection.Data(odd);
    connection.Chunk("data: " + FakeFinish("length") + "\r\n\r\ndata: " + FakeUsage(9, 4) + "\n");
    connection.Chunk("\ndata: [DONE]\n\n");
    connection.EndStream();
  });
  const Answer answer = Ask();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "Hi");
  EXPECT_THAT(answer.wires, testing::ElementsAre(odd, FakeFinish("length")));
  EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
  EXPECT_EQ(answer.usage.prompt_tokens, 9);
  EXPECT_EQ(answer.usage.completion_tokens, 4);
  EXPECT_GT(answer.timings.first_token_ms, 0);
  const UpstreamStats stats = *target_->upstream_stats();
  EXPECT_EQ(stats.succeeded, 1);
  EXPECT_NEAR(stats.cost_usd, (9 * 1 + 4 * 10) / 1e6, 1e-12);
  EXPECT_EQ(stats.estimated_usages, 0);
}

TEST_F(UpstreamTest, PassesAWholeAnswerOnAsItIs) {
  const std::string body = "{\n \"x\": 1.0," + FakeWhole("Hello").substr(1);
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(200, "application/json; charset=utf-8", body);
  });
  const Answer answer = Ask(kWhole);
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_THAT(answer.wires, testing::ElementsAre(body));
  EXPECT_EQ(answer.text, "Hello");
  EXPECT_EQ(answer.usage.completion_tokens, 2);
}

TEST_F(UpstreamTest, SendsItsOwnKeyAndModelAndNotTheClients) {
  const std::string file = testing::TempDir() + "upstream_key";
  std::ofstream(file) << "sk-very-secret\n";
  options_.api_key_file = file;
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  EXPECT_TRUE(Ask().status.ok());
  const FakeRequest request = fake_->requests().front();
  EXPECT_EQ(request.path, "/v1/chat/completions");
  EXPECT_EQ(request.headers.at("authorization"), "Bearer sk-very-secret");
  EXPECT_EQ(request.headers.at("x-request-id"), "req-1");
  EXPECT_THAT(request.body, HasSubstr(R"("model":"real")"));
  EXPECT_THAT(request.body, HasSubstr(R"("include_usage":true)"));
}

TEST_F(UpstreamTest, WithoutAKeySendsNone) {
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  EXPECT_TRUE(Ask().status.ok());
  EXPECT_FALSE(fake_->requests().front().headers.contains("authorization"));
}

TEST_F(UpstreamTest, ForwardsTheClientsCredentialsWhereConfigured) {
  options_.forward_authorization = true;
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(401, "application/json", R"({"error":{"message":"no"}})");
  });
  const absl::Status status = Ask().status;
  EXPECT_EQ(fake_->requests().front().headers.at("authorization"), "Bearer of-the-client");
  EXPECT_EQ(FindWireError(status)->http_status, 401);
}

TEST_F(UpstreamTest, NoErrorShowsTheKey) {
  setenv("HOSTLER_TEST_KEY", "sk-very-secret", 1);
  options_.api_key_env = "HOSTLER_TEST_KEY";
  int code = 0;
  const Running running = Start([&](const FakeRequest& request, FakeConnection& connection) {
    connection.Reply(
        code, "application/json",
        R"({"error":{"message":"bad key )" + request.headers.at("authorization") + "\"}}");
  });
  for (const int each : {400, 401, 403, 500}) {
    code = each;
    const absl::Status status = Ask().status;
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.ToString(), Not(HasSubstr("very-secret"))) << each;
    EXPECT_THAT(FindWireError(status)->body, Not(HasSubstr("very-secret"))) << each;
  }
  EXPECT_EQ(Errors(UpstreamFailure::kCredentials), 2);
}

TEST_F(UpstreamTest, KeepsConnections) {
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(Ask().status.ok());
    // The rest of a stream is read after its end was told.
    ASSERT_TRUE(Eventually([&] { return target_->snapshot().running == 0; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_LE(fake_->connections(), 2);
}

TEST_F(UpstreamTest, AKeptConnectionThatWasClosedIsReplaced) {
  std::atomic<int> served = 0;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    // The second request on a connection finds it closed without a word.
    if (served++ == 1) return connection.CloseAfter();
    connection.Reply(200, "application/json", FakeWhole("x"));
  });
  EXPECT_TRUE(Ask(kWhole).status.ok());
  const Answer second = Ask(kWhole);
  EXPECT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(target_->upstream_stats()->retries, 1);
}

TEST_F(UpstreamTest, ANewConnectionThatIsClosedIsNotTriedAgain) {
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { connection.CloseAfter(); });
  EXPECT_TRUE(absl::IsUnavailable(Ask(kWhole).status));
  EXPECT_EQ(fake_->requests().size(), 1);
  EXPECT_EQ(Errors(UpstreamFailure::kConnect), 1);
}

TEST_F(UpstreamTest, ErrorsKeepTheirStatusAndBody) {
  const std::string body = R"({"error":{"message":"temperature","type":"t","param":null}})";
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(422, "application/json", body);
  });
  const absl::Status status = Ask().status;
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(FindWireError(status)->http_status, 422);
  EXPECT_EQ(FindWireError(status)->body, body);
  EXPECT_EQ(Errors(UpstreamFailure::kRequest), 1);
}

// What no upstream should send, and what is said of it.
struct Hostile {
  const char* name;
  std::string response;  // then the connection is closed
  const char* message;
  UpstreamFailure failure;
};

std::string Page(const std::string& head, const std::string& body) {
  return head + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::vector<Hostile> HostileAnswers() {
  const std::string sse = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
  const std::string json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
  const std::string delta = "data: " + FakeDelta("Hi") + "\n\n";
  const std::string finish = "data: " + FakeFinish() + "\n\n";
  using F = UpstreamFailure;
  return {
      {"nothing", "", "closed the connection without an answer", F::kConnect},
      {"garbage", "\x16\x03\x01 what?\r\n\r\n", "does not speak HTTP", F::kProtocol},
      {"half_a_head", "HTTP/1.1 200 OK\r\nContent-", "closed the connection", F::kTruncated},
      {"endless_head", "HTTP/1.1 200 OK\r\nX: " + std::string(300 << 10, 'x'),
       "does not speak HTTP", F::kProtocol},
      {"interim_without_end",
       [] {
         std::string text;
         for (int i = 0; i < 20; ++i) text += "HTTP/1.1 102 Wait\r\n\r\n";
         return text;
       }(),
       "interim", F::kProtocol},
      {"html", Page("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", "<html>"), "text/html",
       F::kProtocol},
      {"no_type", Page("HTTP/1.1 200 OK\r\n", "hello"), "no type", F::kProtocol},
      {"json_to_a_stream", Page(json, FakeWhole("x")), "not with a stream", F::kProtocol},
      {"gzip", sse.substr(0, sse.size() - 2) + "Content-Encoding: gzip\r\n\r\nxx", "compressed",
       F::kProtocol},
      {"redirect", Page("HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\n", ""), "redirect",
       F::kServer},
      {"no_content", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204", F::kServer},
      {"no_done", sse + delta + finish, "without [DONE]", F::kTruncated},
      {"half_an_event", sse + delta + "data: {\"choi", "within an event", F::kTruncated},
      {"no_finish_reason", sse + delta + "data: [DONE]\n\n", "without a finish_reason",
       F::kTruncated},
      {"done_at_once", sse + "data: [DONE]\n\n", "without a finish_reason", F::kTruncated},
      {"not_json", sse + delta + "data: <html>\n\n", "no answer", F::kProtocol},
      {"deep_json", sse + "data: " + std::string(5000, '[') + "\n\n", "deeper", F::kProtocol},
      {"endless_line", sse + "data: " + std::string(3 << 20, 'x'), "longer than", F::kProtocol},
      {"too_many_choices", sse + "data: " + FakeDelta("x", 3) + "\n\n", "choice 3", F::kProtocol},
      {"short_chunked",
       "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
       "ffff\r\ndata: x",
       "before its answer's end", F::kTruncated},
      {"bad_chunk",
       "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
       "zz\r\nx",
       "does not speak HTTP", F::kProtocol},
      {"error_in_stream", sse + delta + "data: {\"error\":{\"message\":\"out of memory\"}}\n\n",
       "out of memory", F::kServer},
  };
}

class HostileTest : public UpstreamTest, public testing::WithParamInterface<Hostile> {};

TEST_P(HostileTest, IsAClearErrorAndTheNextRequestIsWell) {
  const Hostile& hostile = GetParam();
  options_.max_event_bytes = 1 << 20;
  std::atomic<int> served = 0;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    if (served++ > 0) return Stream(connection);
    connection.Send(hostile.response);
    connection.CloseAfter();
  });
  const Answer answer = Ask();
  EXPECT_TRUE(absl::IsUnavailable(answer.status)) << answer.status;
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr(hostile.message));
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("upstream \"up\""));
  EXPECT_EQ(Errors(hostile.failure), 1);
  const Answer next = Ask();
  EXPECT_TRUE(next.status.ok()) << next.status;
  EXPECT_EQ(next.text, "Hello");
}

INSTANTIATE_TEST_SUITE_P(All, HostileTest, testing::ValuesIn(HostileAnswers()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(UpstreamTest, WholeAnswersOfWrongLengthAreErrors) {
  const auto error = [&](const std::string& response) {
    const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
      connection.Send(response);
      connection.CloseAfter();
    });
    return std::string(Ask(kWhole).status.message());
  };
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
  const std::string body = FakeWhole("x");
  EXPECT_THAT(error(head + "Content-Length: 99999\r\n\r\n" + body),
              HasSubstr("before its answer's end"));
  EXPECT_THAT(error(head + "Content-Length: 20\r\n\r\n" + body), HasSubstr("no answer"));
  EXPECT_THAT(error(head + "Content-Length: 20\r\nContent-Length: 30\r\n\r\n" + body),
              HasSubstr("does not speak HTTP"));
  EXPECT_THAT(error(Page(head, R"({"choices":[{"message":{"content":"x"}}]})")),
              HasSubstr("finish_reason"));
  EXPECT_THAT(error(Page(head, R"({"choices":[]})")), HasSubstr("no choices"));
}

TEST_F(UpstreamTest, AnAnswerThatIsTooLargeIsCutOff) {
  options_.max_answer_bytes = 1 << 20;
  std::atomic<bool> cut = false;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.Send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n");
    const std::string piece(64 << 10, 'x');
    for (int i = 0; i < 2000 && !cut; ++i) cut = !connection.Send(piece);
    connection.CloseAfter();
  });
  EXPECT_THAT(std::string(Ask(kWhole).status.message()), HasSubstr("more than 1048576 bytes"));
  EXPECT_TRUE(Eventually([&] { return cut.load(); }));
}

TEST_F(UpstreamTest, TimesOutWithoutAFirstToken) {
  options_.first_token_timeout_s = 0.2;
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    while (connection.Chunk(": still thinking\n\n")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  const Answer answer = Ask();
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status)) << answer.status;
  EXPECT_EQ(Errors(UpstreamFailure::kTimeout), 1);
}

TEST_F(UpstreamTest, TimesOutBetweenEventsEvenWhenBytesDrip) {
  options_.idle_timeout_s = 0.3;
  std::atomic<bool> closed = false;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hi"));
    while (connection.Chunk("d")) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    closed = true;
  });
  const Answer answer = Ask();
  EXPECT_EQ(answer.text, "Hi");
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status)) << answer.status;
  EXPECT_TRUE(Eventually([&] { return closed.load(); }));
}

TEST_F(UpstreamTest, TimesOutAWholeAnswer) {
  options_.request_timeout_s = 0.2;
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { connection.WaitUntilClosed(); });
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ask(kWhole).status));
}

TEST_F(UpstreamTest, WhereNobodyListensIsUnavailable) {
  {
    FakeUpstream gone([](const FakeRequest&, FakeConnection&) {});
    options_.url = gone.url();
  }
  Open();
  const absl::Status status = Ask().status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Connection refused"));
}

TEST_F(UpstreamTest, CancellingClosesTheConnection) {
  std::atomic<bool> closed = false;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hi"));
    closed = connection.WaitUntilClosed();
    connection.CloseAfter();
  });
  auto stream = target_->Submit(ChatRequest(kStreamed));
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ((*stream)->Pop()->text, "Hi");
  (*stream)->Cancel();
  EXPECT_TRUE(Eventually([&] { return closed.load(); }));
  EXPECT_TRUE(absl::IsCancelled(ReadAnswer(stream->get()).status));
  EXPECT_EQ(Errors(UpstreamFailure::kCancelled), 1);
  EXPECT_EQ(target_->snapshot().running, 0);
}

TEST_F(UpstreamTest, DoesNotReadOnWhileTheClientDoesNot) {
  const std::string text(8000, 'x');
  std::atomic<int> sent = 0;
  constexpr int kEvents = 6000;  // 48 MB: more than any socket's buffers hold
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    for (int i = 0; i < kEvents; ++i, ++sent) connection.Data(FakeDelta(text));
    connection.Data(FakeFinish());
    connection.Data("[DONE]");
    connection.EndStream();
  });
  auto stream = target_->Submit(ChatRequest(kStreamed));
  ASSERT_TRUE(stream.ok());
  int before = -1;
  ASSERT_TRUE(Eventually([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return std::exchange(before, sent.load()) == sent.load();
  }));
  EXPECT_LT(sent, kEvents);
  const Answer answer = ReadAnswer(stream->get());
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text.size(), kEvents * text.size());
}

TEST_F(UpstreamTest, MoreThanItMayWaitAndThenAreRefused) {
  options_.max_concurrency = 1;
  options_.max_queued = 1;
  std::atomic<bool> go = false;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    Stream(connection);
  });
  auto first = target_->Submit(ChatRequest(kStreamed));
  auto second = target_->Submit(ChatRequest(kStreamed));
  const auto third = target_->Submit(ChatRequest(kStreamed));
  EXPECT_TRUE(absl::IsResourceExhausted(third.status())) << third.status();
  EXPECT_EQ(RetryAfterSeconds(third.status()), 1);
  EXPECT_EQ(target_->snapshot().running, 1);
  EXPECT_EQ(target_->snapshot().waiting, 1);
  EXPECT_EQ(target_->snapshot().max_concurrency, 1);
  go = true;
  EXPECT_TRUE(ReadAnswer(first->get()).status.ok());
  EXPECT_TRUE(ReadAnswer(second->get()).status.ok());
  EXPECT_EQ(fake_->requests().size(), 2);
}

TEST_F(UpstreamTest, WaitingHasAnEnd) {
  options_.max_concurrency = 1;
  options_.queue_timeout_s = 0.1;
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { connection.WaitUntilClosed(); });
  auto first = target_->Submit(ChatRequest(kStreamed));
  EXPECT_TRUE(absl::IsResourceExhausted(Ask().status));
  (*first)->Cancel();
  EXPECT_TRUE(absl::IsCancelled(ReadAnswer(first->get()).status));
}

TEST_F(UpstreamTest, FailuresEjectItAndAProbeBringsItBack) {
  options_.health.failures = 2;
  options_.health.ejection_s = 0.3;
  std::vector<std::string> events;
  options_.on_event = [&](const std::string& text) { events.push_back(text); };
  std::atomic<bool> well = false;
  const Running running = Start([&](const FakeRequest&, FakeConnection& connection) {
    if (well) return Stream(connection);
    connection.Reply(500, "text/plain", "oops");
  });
  EXPECT_FALSE(Ask().status.ok());
  EXPECT_EQ(target_->snapshot().health, Health::kHealthy);
  EXPECT_FALSE(Ask().status.ok());
  EXPECT_EQ(target_->snapshot().health, Health::kEjected);
  EXPECT_FALSE(target_->snapshot().available);
  EXPECT_GT(target_->snapshot().retry_after_s, 0);
  const absl::Status refused = Ask().status;
  EXPECT_TRUE(absl::IsUnavailable(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("is not used"));
  EXPECT_EQ(fake_->requests().size(), 2);
  well = true;
  EXPECT_TRUE(Eventually([&] { return target_->snapshot().health == Health::kProbing; }));
  EXPECT_TRUE(Ask().status.ok());
  EXPECT_EQ(target_->snapshot().health, Health::kHealthy);
  EXPECT_EQ(target_->upstream_stats()->ejections, 1);
  ASSERT_EQ(events.size(), 2);
  EXPECT_THAT(events[0], HasSubstr("ejected"));
  EXPECT_THAT(events[1], HasSubstr("back"));
}

TEST_F(UpstreamTest, TheClientsFaultsDoNotEjectIt) {
  options_.health.failures = 2;
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(400, "application/json", "{}");
  });
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(absl::IsInvalidArgument(Ask().status));
  EXPECT_EQ(target_->snapshot().health, Health::kHealthy);
}

TEST_F(UpstreamTest, RetryAfterIsHeededAndToldOn) {
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(429, "application/json", "{}", "Retry-After: 30\r\n");
  });
  const absl::Status status = Ask().status;
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(RetryAfterSeconds(status), 30);
  EXPECT_EQ(target_->snapshot().health, Health::kThrottled);
  const absl::Status next = Ask().status;
  EXPECT_TRUE(absl::IsResourceExhausted(next)) << next;
  EXPECT_NEAR(RetryAfterSeconds(next), 30, 1);
  EXPECT_EQ(fake_->requests().size(), 1);
}

TEST_F(UpstreamTest, ChecksEjectItAndBringItBack) {
  options_.health.interval_s = 0.02;
  options_.health.failed_checks = 2;
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  EXPECT_TRUE(Eventually([&] { return target_->upstream_stats()->checks > 1; }));
  EXPECT_EQ(target_->snapshot().health, Health::kHealthy);
  fake_->set_health(503);
  EXPECT_TRUE(Eventually([&] { return target_->snapshot().health == Health::kEjected; }));
  fake_->set_health(200);
  EXPECT_TRUE(Eventually([&] { return target_->snapshot().health == Health::kHealthy; }));
  EXPECT_GT(target_->upstream_stats()->failed_checks, 1);
}

TEST_F(UpstreamTest, DrainingLetsRequestsEndAndThenEndsThem) {
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hi"));
    connection.WaitUntilClosed();
    connection.CloseAfter();
  });
  auto stream = target_->Submit(ChatRequest(kStreamed));
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ((*stream)->Pop()->text, "Hi");
  target_->Drain(50);
  const absl::Status status = ReadAnswer(stream->get()).status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shutting down"));
  EXPECT_TRUE(absl::IsUnavailable(Ask().status));
}

TEST_F(UpstreamTest, ManyRequestsAtOnce) {
  options_.max_concurrency = 8;
  const Running running =
      Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  std::vector<std::thread> threads;
  std::atomic<int> well = 0;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        auto stream = target_->Submit(ChatRequest(kStreamed));
        if (stream.ok() && j % 5 == 4) (*stream)->Cancel();
        well += stream.ok() && ReadAnswer(stream->get()).text == "Hello";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(well, 16 * 16);
  EXPECT_TRUE(Eventually([&] { return target_->snapshot().running == 0; }));
}

TEST_F(UpstreamTest, AnswersRequestsThatDidNotComeAsJson) {
  const Running running = Start([](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(R"({"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]})");
    connection.Data("[DONE]");
    connection.EndStream();
  });
  GenerateRequest request;
  request.prompt = "Once upon a time";
  auto stream = target_->Submit(std::move(request));
  ASSERT_TRUE(stream.ok());
  const Answer answer = ReadAnswer(stream->get());
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "Hi");
  EXPECT_TRUE(answer.wires.empty());
  EXPECT_EQ(answer.usage.prompt_tokens, 4);  // told by nobody
  EXPECT_EQ(target_->upstream_stats()->estimated_usages, 1);
  EXPECT_EQ(fake_->requests().front().path, "/v1/completions");
}

class TlsTest : public UpstreamTest {
 protected:
  void StartTls(const std::string& host) {
    certificate_ = MakeTestCertificate(host);
    UseCertificate(certificate_, &server_tls_);
    fake_ = std::make_unique<FakeUpstream>(
        [](const FakeRequest&, FakeConnection& connection) { Stream(connection); }, &server_tls_);
    options_.url = fake_->url();
  }
  void TrustIt() {
    options_.ca_file = testing::TempDir() + "upstream_ca.pem";
    std::ofstream(options_.ca_file) << certificate_.certificate;
  }

  TestCertificate certificate_;
  net::ssl::context server_tls_{net::ssl::context::tls_server};
};

TEST_F(TlsTest, AnswersOverTls) {
  StartTls("localhost");
  TrustIt();
  Open();
  for (int i = 0; i < 3; ++i) {
    const Answer answer = Ask();
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.text, "Hello");
  }
}

TEST_F(TlsTest, RefusesAnUnknownAuthority) {
  StartTls("localhost");
  Open();
  const absl::Status status = Ask().status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("certificate verify failed"));
  EXPECT_TRUE(fake_->requests().empty());
}

TEST_F(TlsTest, RefusesACertificateForAnotherName) {
  StartTls("elsewhere.test");
  TrustIt();
  Open();
  EXPECT_TRUE(absl::IsUnavailable(Ask().status));
  EXPECT_TRUE(fake_->requests().empty());
}

TEST(CheckUpstreamTest, NamesTheSettingAtFault) {
  UpstreamOptions good;
  good.url = "https://127.0.0.1:1";
  EXPECT_TRUE(CheckUpstream(good).ok());
  const auto message = [&](auto change) {
    UpstreamOptions options = good;
    change(&options);
    return std::string(CheckUpstream(options).message());
  };
  EXPECT_THAT(message([](auto* o) { o->url = "x"; }), HasSubstr("url: "));
  EXPECT_THAT(message([](auto* o) { o->api_key_file = "/nowhere"; }),
              HasSubstr("api_key_file: /nowhere cannot be read"));
  EXPECT_THAT(message([](auto* o) { o->api_key_env = "HOSTLER_NO_SUCH_KEY"; }),
              HasSubstr("api_key_env: the environment has no HOSTLER_NO_SUCH_KEY"));
  EXPECT_THAT(message([](auto* o) { o->ca_file = "/nowhere"; }), HasSubstr("ca_file: "));
  setenv("HOSTLER_BAD_KEY", "two words", 1);
  const std::string bad = message([](auto* o) { o->api_key_env = "HOSTLER_BAD_KEY"; });
  EXPECT_THAT(bad, HasSubstr("api_key_env: "));
  EXPECT_THAT(bad, Not(HasSubstr("two words")));
}

}  // namespace
}  // namespace hostler
