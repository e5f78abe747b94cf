#include "server/bench/load_client.h"

#include <atomic>
#include <thread>

#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/bench/completion_reader.h"

namespace hostler {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using boost::asio::ip::tcp;
using testing::HasSubstr;

// A small server with a thread for each connection. It streams as many tokens
// as asked for, answers 429 to requests whose prompt is longer than 64 tokens,
// and drops the connection after `requests_per_connection`.
class TestServer {
 public:
  explicit TestServer(int requests_per_connection = 1 << 30)
      : acceptor_(io_, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0)),
        requests_per_connection_(requests_per_connection) {
    acceptor_thread_ = std::thread([this] { Accept(); });
  }
  ~TestServer() {
    stopping_ = true;
    tcp::socket wake(io_);
    boost::system::error_code ignored;
    wake.connect(acceptor_.local_endpoint(), ignored);
    acceptor_thread_.join();
    for (std::thread& t : threads_) t.join();
  }

  std::string url() const {
    return fmt::format("http://127.0.0.1:{}", acceptor_.local_endpoint().port());
  }
  ServerAddress address() const { return *ParseServerUrl(url()); }
  int connections() const { return connections_; }

 private:
  void Accept() {
    for (;;) {
      tcp::socket socket(io_);
      acceptor_.accept(socket);
      if (stopping_) return;
      ++connections_;
      threads_.emplace_back([this, s = std::move(socket)]() mutable { Serve(std::move(s)); });
    }
  }

  void Serve(tcp::socket socket) {
    beast::flat_buffer buffer;
    boost::system::error_code error;
    for (int i = 0; i < requests_per_connection_; ++i) {
      http::request<http::string_body> request;
      http::read(socket, buffer, request, error);
      if (error) return;
      const std::string answer = Answer(request);
      boost::asio::write(socket, boost::asio::buffer(answer), error);
      if (error) return;
    }
  }

  static std::string Plain(const std::string& status, const std::string& body) {
    return fmt::format("HTTP/1.1 {}\r\ncontent-length: {}\r\n\r\n{}", status, body.size(), body);
  }

  static std::string Answer(const http::request<http::string_body>& request) {
    if (request.target() == "/v1/models") {
      return Plain("200 OK",
                   R"({"data":[{"id":"a","max_model_len":77},{"id":"b","meta":{"n_vocab":99}}]})");
    }
    const auto body = nlohmann::json::parse(request.body());
    if (body["prompt"].size() > 64) {
      return Plain("429 Too Many Requests", R"({"error":{"message":"queue full"}})");
    }
    std::string out = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    auto chunk = [&out](const std::string& text) {
      out += fmt::format("{:x}\r\n{}\r\n", text.size(), text);
    };
    const int tokens = body["min_tokens"];
    for (int i = 0; i < tokens; ++i) {
      chunk("data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":null}]}\n\n");
    }
    chunk("data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n");
    chunk(
        fmt::format("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{},"
                    "\"completion_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":4}}"
                    "}}}}\n\ndata: [DO",
                    body["prompt"].size(), tokens));
    chunk("NE]\n\n");
    return out + "0\r\n\r\n";
  }

  boost::asio::io_context io_;
  tcp::acceptor acceptor_;
  const int requests_per_connection_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_{0};
  std::thread acceptor_thread_;
  std::vector<std::thread> threads_;  // of acceptor_thread_ while it runs
};

LoadOptions Options(int concurrency) {
  LoadOptions options;
  options.model = std::string("a");
  options.concurrency = concurrency;
  options.ids = {3, 4095};
  options.timeout_s = 30;
  return options;
}

TEST(LoadClientTest, ClosedLoopAnswersEveryRequestOverItsFewConnections) {
  TestServer server;
  const LoadPlan plan = RandomPlan(40, {8, 32}, {1, 5}, 0, 1);
  const std::vector<Outcome> outcomes = RunLoad(server.address(), plan, Options(4), nullptr);
  ASSERT_EQ(outcomes.size(), 40u);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_TRUE(outcomes[i].ok) << outcomes[i].failure;
    EXPECT_EQ(outcomes[i].prompt_tokens, plan.requests[i].prompt_tokens);
    EXPECT_EQ(outcomes[i].output_tokens, plan.requests[i].output_tokens);
    EXPECT_EQ(outcomes[i].gaps_s.size(), plan.requests[i].output_tokens - 1u);
    EXPECT_EQ(outcomes[i].cached_prompt_tokens, 4);
    EXPECT_LE(outcomes[i].sent_s, outcomes[i].first_token_s);
    EXPECT_LE(outcomes[i].first_token_s, outcomes[i].end_s);
  }
  EXPECT_EQ(server.connections(), 4);
}

TEST(LoadClientTest, OpenLoopSendsNothingBeforeItsTime) {
  TestServer server;
  const LoadPlan plan = RandomPlan(30, {8, 8}, {2, 2}, /*rate=*/100, 1);
  LoadOptions options = Options(0);
  options.speed = 2;
  const std::vector<Outcome> outcomes = RunLoad(server.address(), plan, options, nullptr);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_TRUE(outcomes[i].ok) << outcomes[i].failure;
    EXPECT_NEAR(outcomes[i].due_s, plan.requests[i].at_s / 2, 1e-9);
    EXPECT_GE(outcomes[i].sent_s, outcomes[i].due_s - 1e-3);
  }
}

TEST(LoadClientTest, SurvivesAServerThatClosesIdleConnections) {
  TestServer server(/*requests_per_connection=*/1);
  const std::vector<Outcome> outcomes =
      RunLoad(server.address(), RandomPlan(6, {8, 8}, {2, 2}, 0, 1), Options(2), nullptr);
  for (const Outcome& o : outcomes) EXPECT_TRUE(o.ok) << o.failure;
  EXPECT_EQ(server.connections(), 6);
}

TEST(LoadClientTest, RefusalsAreFailuresByStatusWithTheServersWords) {
  TestServer server;
  LoadPlan plan = RandomPlan(4, {8, 8}, {2, 2}, 0, 1);
  plan.requests[2].prompt_tokens = 65;
  const std::vector<Outcome> outcomes = RunLoad(server.address(), plan, Options(1), nullptr);
  EXPECT_FALSE(outcomes[2].ok);
  EXPECT_EQ(outcomes[2].failure, "http 429");
  EXPECT_THAT(outcomes[2].detail, HasSubstr("queue full"));
  EXPECT_TRUE(outcomes[3].ok);
  EXPECT_EQ(server.connections(), 1);
}

TEST(LoadClientTest, AServerThatIsNotThereIsAClearError) {
  std::string url;
  { url = TestServer().url(); }
  const ServerAddress address = *ParseServerUrl(url);
  const absl::StatusOr<ServerInfo> info = AskServer(address, "", 5);
  EXPECT_TRUE(absl::IsUnavailable(info.status()));
  EXPECT_THAT(std::string(info.status().message()), HasSubstr("Connection refused"));
  const std::vector<Outcome> outcomes =
      RunLoad(address, RandomPlan(2, {8, 8}, {2, 2}, 0, 1), Options(1), nullptr);
  EXPECT_EQ(outcomes[0].failure, "connect: Connection refused");
}

TEST(LoadClientTest, AsksTheServerForItsModel) {
  TestServer server;
  absl::StatusOr<ServerInfo> first = AskServer(server.address(), "", 30);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->model, "a");
  EXPECT_EQ(first->context, 77);
  EXPECT_FALSE(first->vocab.has_value());
  EXPECT_EQ(AskServer(server.address(), "b", 30)->vocab, 99);
  EXPECT_TRUE(absl::IsNotFound(AskServer(server.address(), "c", 30).status()));
}

TEST(ServerUrlTest, TakesPlainHttpOnly) {
  const ServerAddress a = *ParseServerUrl("http://localhost:8000/v1/");
  EXPECT_EQ(a.host, "localhost");
  EXPECT_EQ(a.port, "8000");
  EXPECT_EQ(a.base_path, "");
  EXPECT_EQ(ParseServerUrl("http://h/proxy/v1")->base_path, "/proxy");
  EXPECT_EQ(ParseServerUrl("http://h")->port, "80");
  EXPECT_EQ(ParseServerUrl("http://[::1]:81")->host, "::1");
  EXPECT_EQ(ParseServerUrl("http://[::1]:81")->port, "81");
  for (const char* bad : {"", "localhost:8000", "https://h", "http://", "http://h:", "http://h:x",
                          "http://h:99999", "http://:80"}) {
    EXPECT_FALSE(ParseServerUrl(bad).ok()) << bad;
  }
}

TEST(CompletionReaderTest, ReadsEventsCutAnywhere) {
  const std::string stream =
      ": comment\r\n\r\ndata: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\r\n\r\n"
      "data: {\"choices\":[{\"text\":\"b\",\"finish_reason\":\"length\"}]}\n\n"
      "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
  for (size_t cut = 1; cut < stream.size(); ++cut) {
    Outcome outcome;
    CompletionReader reader(&outcome);
    reader.Add(stream.substr(0, cut), 1.0);
    reader.Add(stream.substr(cut), 2.0);
    reader.Finish(2, 3.0);
    EXPECT_TRUE(outcome.ok) << cut;
    EXPECT_EQ(outcome.output_tokens, 2);
    EXPECT_FALSE(outcome.short_answer);
  }
}

TEST(CompletionReaderTest, ErrorsAndCutStreamsAreFailures) {
  auto failure = [](const std::string& stream) {
    Outcome outcome;
    CompletionReader reader(&outcome);
    reader.Add(stream, 1.0);
    reader.Finish(1, 2.0);
    EXPECT_FALSE(outcome.ok);
    return outcome;
  };
  const std::string token = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n";
  EXPECT_EQ(failure(token).failure, "stream ended early");
  EXPECT_EQ(failure("data: [DONE]\n\n").failure, "no tokens");
  const Outcome error =
      failure(token + "data: {\"error\":{\"message\":\"disk\"}}\n\ndata: [DONE]\n");
  EXPECT_EQ(error.failure, "error in the stream");
  EXPECT_EQ(error.detail, "disk");
  EXPECT_EQ(failure("data: {oops\n\n").failure, "error in the stream");
}

}  // namespace
}  // namespace hostler
