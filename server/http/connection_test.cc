// How connections behave: limits, order, hang-ups, slow clients, stopping.
#include <future>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/test_server.h"

namespace hostler {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kCompletion[] = R"({"model":"small","prompt":"abc"})";
constexpr char kStreamed[] = R"({"model":"small","prompt":"abc","stream":true})";

class ConnectionTest : public HttpTest {
 protected:
  // A stream that never ends, and what its client has read of it so far.
  std::shared_ptr<GenerateStream> OpenStream(TestClient* client, size_t index = 0) {
    client->SendRequest("POST", "/v1/completions", kStreamed);
    auto stream = small_->WaitForRequest(index).second;
    stream->Push(TextEvent("first"));
    EXPECT_THAT(client->ReadUntil("\"first\""), HasSubstr("HTTP/1.1 200"));
    return stream;
  }

  // Pushes large events until the server takes no more of them.
  static void Flood(GenerateStream* stream) {
    const std::string text(64 << 10, 'x');
    std::mutex mutex;
    std::condition_variable pause;
    std::unique_lock lock(mutex);
    for (int calm = 0; calm < 5;) {
      if (stream->full()) {
        ++calm;
        pause.wait_for(lock, milliseconds(10));
      } else {
        calm = 0;
        stream->Push(TextEvent(text));
      }
    }
  }
};

// -- Requests -----------------------------------------------------------------

TEST_F(ConnectionTest, AnswersPipelinedRequestsInOrder) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const std::string body = kCompletion;
  const std::string post =
      "POST /v1/completions HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  client.Send(post + "GET /version HTTP/1.1\r\n\r\n" + post + "GET /health HTTP/1.1\r\n\r\n");
  EXPECT_THAT(client.Read().body, HasSubstr("Hello world"));
  EXPECT_THAT(client.Read().body, HasSubstr("version"));
  EXPECT_THAT(client.Read().body, HasSubstr("Hello world"));
  EXPECT_THAT(client.Read().body, HasSubstr("ok"));
}

TEST_F(ConnectionTest, AnswersWhatWasSentDuringAStreamAfterIt) {
  StartServer();
  TestClient client(port());
  auto stream = OpenStream(&client);
  client.Send("GET /version HT");
  client.Send("TP/1.1\r\n\r\n");
  stream->Push(LastEvent("last"));
  stream->End(absl::OkStatus(), {}, {});
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr("[DONE]"));
  EXPECT_THAT(client.Read().body, HasSubstr("version"));
}

TEST_F(ConnectionTest, TakesARequestByteByByte) {
  StartServer();
  TestClient client(port());
  for (const char c : std::string("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")) {
    client.Send(std::string(1, c));
  }
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ConnectionTest, TakesAChunkedBodyAndExpectContinue) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 100 Continue"));
  client.Send("8\r\n{\"prompt\r\n6\r\n\":\"a\"}\r\n0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ConnectionTest, Http10ClosesUnlessAskedNotTo) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient once(port());
  once.Send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_THAT(once.ReadAll(), HasSubstr("Connection: close\r\n"));
  EXPECT_TRUE(once.closed());

  TestClient twice(port());
  for (int i = 0; i < 2; ++i) {
    twice.Send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(twice.Read().headers.at("connection"), "keep-alive");
  }
}

TEST_F(ConnectionTest, Http10StreamsUntilTheConnectionCloses) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const std::string body = kStreamed;
  client.Send("POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::string all = client.ReadAll();
  EXPECT_TRUE(client.closed());
  EXPECT_THAT(all, Not(HasSubstr("chunked")));
  EXPECT_THAT(all, HasSubstr("\r\n\r\ndata: {"));
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n")) << all;
}

// -- Limits -------------------------------------------------------------------

TEST_F(ConnectionTest, RefusesABodyThatSaysItIsTooLarge) {
  options_.max_body_bytes = 1000;
  StartServer();
  TestClient client(port());
  client.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  const TestResponse response = client.Read();
  EXPECT_EQ(response.status, 413);
  EXPECT_THAT(response.body, HasSubstr("larger than 1000 bytes"));
  EXPECT_EQ(response.headers.at("connection"), "close");
}

TEST_F(ConnectionTest, RefusesABodyThatTurnsOutTooLarge) {
  options_.max_body_bytes = 1000;
  StartServer();
  TestClient client(port());
  client.Send("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  // All of it is sent before the answer is read.
  for (int i = 0; i < 200; ++i) client.Send("400\r\n" + std::string(0x400, 'x') + "\r\n");
  EXPECT_EQ(client.Read().status, 413);
}

TEST_F(ConnectionTest, TakesABodyOfTheLargestSize) {
  AnswerAtOnce(small_);
  options_.max_body_bytes = 1 << 20;
  StartServer();
  TestClient client(port());
  std::string body = R"({"prompt":")";
  body += std::string(options_.max_body_bytes - body.size() - 2, 'x') + "\"}";
  EXPECT_EQ(client.Post("/v1/completions", body).status, 200);
}

TEST_F(ConnectionTest, RefusesMoreBodiesThanItMayHold) {
  AnswerAtOnce(small_);
  options_.max_bodies_bytes = 1000;
  StartServer();
  const std::string head = "POST /v1/completions HTTP/1.1\r\nContent-Length: ";
  auto holder = std::make_unique<TestClient>(port());
  holder->Send(head + "900\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_THAT(holder->ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));
  TestClient refused(port());
  refused.Send(head + "101\r\n\r\n");
  EXPECT_EQ(refused.Read().status, 503);
  // What was answered or given up is free again.
  TestClient client(port());
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(client.Post("/v1/completions", kCompletion).status, 200) << i;
  }
  holder->Send(std::string(900, ' '));
  EXPECT_EQ(holder->Read().status, 400);
  EXPECT_EQ(holder->Post("/v1/completions", std::string(900, ' ')).status, 400);
}

TEST_F(ConnectionTest, RefusesHeadersThatAreTooLarge) {
  options_.max_header_bytes = 1000;
  StartServer();
  TestClient client(port());
  client.SendRequest("GET", "/health", "", "X: " + std::string(2000, 'x') + "\r\n");
  EXPECT_EQ(client.Read().status, 431);
}

TEST_F(ConnectionTest, RefusesWhatIsNotHttp) {
  StartServer();
  for (const char* text : {"\x16\x03\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
                           "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"}) {
    TestClient client(port());
    client.Send(text);
    EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 400 ")) << text;
    EXPECT_TRUE(client.closed());
  }
}

TEST_F(ConnectionTest, ClosesMoreConnectionsThanItMayHave) {
  options_.max_connections = 2;
  StartServer();
  TestClient one(port()), two(port());
  EXPECT_EQ(one.Get("/health").status, 200);
  EXPECT_EQ(two.Get("/health").status, 200);
  TestClient three(port());
  three.ReadAll();
  EXPECT_TRUE(three.closed());
  EXPECT_EQ(one.Get("/health").status, 200);
}

TEST_F(ConnectionTest, ClosesConnectionsThatStayIdle) {
  options_.idle_timeout = milliseconds(50);
  StartServer();
  TestClient fresh(port()), used(port());
  EXPECT_EQ(used.Get("/health").status, 200);
  for (TestClient* client : {&fresh, &used}) {
    EXPECT_EQ(client->ReadAll(), "");
    EXPECT_TRUE(client->closed());
  }
}

TEST_F(ConnectionTest, ClosesConnectionsThatDoNotFinishARequest) {
  options_.header_timeout = options_.body_timeout = milliseconds(50);
  StartServer();
  TestClient head(port()), body(port());
  head.Send("GET /health HTTP/1.1\r\nX:");
  body.Send("POST /tokenize HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
  for (TestClient* client : {&head, &body}) {
    client->ReadAll();
    EXPECT_TRUE(client->closed());
  }
}

TEST_F(ConnectionTest, HoldsManyIdleConnections) {
  AnswerAtOnce(small_);
  StartServer();
  std::vector<std::unique_ptr<TestClient>> idle;
  for (int i = 0; i < 400; ++i) {
    idle.push_back(std::make_unique<TestClient>(port()));
    if (i % 2 == 0) idle.back()->Send("GET /heal");
  }
  TestClient client(port());
  EXPECT_EQ(client.Post("/v1/completions", kCompletion).status, 200);
  idle[0]->Send("th HTTP/1.1\r\n\r\n");
  EXPECT_EQ(idle[0]->Read().status, 200);
  EXPECT_EQ(idle[1]->Get("/health").status, 200);
}

// -- Hang-ups -----------------------------------------------------------------

TEST_F(ConnectionTest, AHangUpDuringAStreamCancelsItsRequest) {
  StartServer();
  auto client = std::make_unique<TestClient>(port());
  auto stream = OpenStream(client.get());
  EXPECT_FALSE(stream->cancelled());
  client.reset();
  WaitUntilCancelled(stream.get());
}

TEST_F(ConnectionTest, AHangUpBeforeTheAnswerCancelsItsRequests) {
  StartServer();
  for (const bool reset : {false, true}) {
    const size_t first = reset ? 2 : 0;
    auto client = std::make_unique<TestClient>(port());
    client->SendRequest("POST", "/v1/completions", R"({"model":"small","prompt":["a","b"]})");
    auto one = small_->WaitForRequest(first).second;
    auto two = small_->WaitForRequest(first + 1).second;
    one->Push(TextEvent("x"));
    if (reset) client->socket().set_option(tcp::socket::linger(true, 0));
    client.reset();
    WaitUntilCancelled(one.get());
    WaitUntilCancelled(two.get());
  }
}

TEST_F(ConnectionTest, AHangUpInsideARequestHarmsNoOne) {
  AnswerAtOnce(small_);
  StartServer();
  for (const char* part : {"", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n\r\n",
                           "POST /tokenize HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"prompt"}) {
    TestClient client(port());
    client.Send(part);
  }
  TestClient client(port());
  EXPECT_EQ(client.Post("/v1/completions", kCompletion).status, 200);
}

TEST_F(ConnectionTest, OneEndedPromptDoesNotHideTheFailureOfAnother) {
  StartServer();
  TestClient client(port());
  client.SendRequest("POST", "/v1/completions", R"({"model":"small","prompt":["a","b"]})");
  auto one = small_->WaitForRequest(0).second;
  auto two = small_->WaitForRequest(1).second;
  two->End(absl::InternalError("broken"), {}, {});
  EXPECT_EQ(client.Read().status, 500);
  WaitUntilCancelled(one.get());
}

// -- Slow clients -------------------------------------------------------------

TEST_F(ConnectionTest, ASlowReaderHoldsUpOnlyItsOwnRequest) {
  small_->stream_capacity = 4;
  StartServer();
  TestClient slow(port());
  auto flooded = OpenStream(&slow);
  Flood(flooded.get());
  EXPECT_TRUE(flooded->full());

  TestClient quick(port());
  auto stream = OpenStream(&quick, 1);
  stream->Push(LastEvent("last"));
  stream->End(absl::OkStatus(), {}, {});
  EXPECT_THAT(quick.ReadUntil("0\r\n\r\n"), HasSubstr("[DONE]"));

  // What was held up still arrives, whole.
  flooded->Push(LastEvent("end of it"));
  flooded->End(absl::OkStatus(), {}, {});
  EXPECT_THAT(slow.ReadUntil("0\r\n\r\n"), HasSubstr("end of it"));
}

TEST_F(ConnectionTest, AClientThatReadsNothingIsDropped) {
  small_->stream_capacity = 4;
  options_.write_timeout = milliseconds(100);
  StartServer();
  TestClient client(port());
  auto stream = OpenStream(&client);
  Flood(stream.get());
  WaitUntilCancelled(stream.get());
}

// -- Stopping -----------------------------------------------------------------

TEST_F(ConnectionTest, StoppingClosesIdleConnectionsAndFinishesAnswers) {
  StartServer();
  TestClient idle(port()), fresh(port()), busy(port());
  EXPECT_EQ(idle.Get("/health").status, 200);
  auto stream = OpenStream(&busy);
  std::future<void> stopped = std::async(std::launch::async, [this] { server_->Stop(); });
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_TRUE(idle.closed());
  fresh.ReadAll();
  EXPECT_TRUE(fresh.closed());
  stream->Push(LastEvent("last"));
  stream->End(absl::OkStatus(), {}, {});
  EXPECT_THAT(busy.ReadAll(), HasSubstr("[DONE]"));
  EXPECT_TRUE(busy.closed());
  stopped.get();
}

TEST_F(ConnectionTest, StoppingCutsOffWhatOutlastsTheGrace) {
  options_.stop_grace = milliseconds(20);
  StartServer();
  TestClient streaming(port()), waiting(port());
  auto stream = OpenStream(&streaming);
  waiting.SendRequest("POST", "/v1/completions", kCompletion);
  auto other = small_->WaitForRequest(1).second;
  server_->Stop();
  EXPECT_TRUE(stream->cancelled());
  EXPECT_TRUE(other->cancelled());
  streaming.ReadAll();
  EXPECT_TRUE(streaming.closed());
}

TEST_F(ConnectionTest, SaysWhyItCannotListen) {
  StartServer();
  options_.port = port();
  EXPECT_EQ(HttpServer::Start(options_, &service_).status().code(), absl::StatusCode::kUnavailable);
  options_.host = "256.0.0.1";
  EXPECT_EQ(HttpServer::Start(options_, &service_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hostler
