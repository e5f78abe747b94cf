// The HTTP server before an engine, "small", and a fake upstream, "far".
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/upstream/fake_upstream.h"
#include "router/upstream/upstream_target.h"
#include "server/http/test_server.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using testing::Not;

class UpstreamHttpTest : public HttpTest {
 protected:
  void Start(FakeUpstream::Handler handler) {
    fake_ = std::make_unique<FakeUpstream>(std::move(handler));
    UpstreamOptions upstream;
    upstream.name = "far";
    upstream.model = "real";
    upstream.url = fake_->url();
    upstream.price = Price{1, 2};
    upstream.health.interval_s = 0;
    auto target = NewUpstreamTarget(std::move(upstream), std::make_shared<UpstreamIo>());
    ASSERT_TRUE(target.ok()) << target.status();
    ASSERT_TRUE(router_.AddTarget(*std::move(target)).ok());
    ASSERT_TRUE(router_.AddVirtualModel("to-far", NewStaticPolicy({{"far", 0}})).ok());
    AnswerAtOnce(small_);
    options_.admin = AdminAccess::kOn;
    StartServer();
  }
  ~UpstreamHttpTest() override { server_.reset(); }

  static std::string Chat(const std::string& model, const std::string& more = "") {
    return R"({"model":")" + model + R"(","messages":[{"role":"user","content":"Hi"}])" + more +
           "}";
  }
  TestResponse Post(const std::string& body, const std::string& path = "/v1/chat/completions",
                    const std::string& headers = "") {
    return TestClient(port()).Post(path, body, headers);
  }

  static void Stream(FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hello"));
    connection.Data(FakeFinish("tool_calls"));
    connection.Data(FakeUsage(9, 4));
    connection.Data("[DONE]");
    connection.EndStream();
  }

  std::unique_ptr<FakeUpstream> fake_;
};

TEST_F(UpstreamHttpTest, StreamsAreTheUpstreamsOwn) {
  Start([](const FakeRequest&, FakeConnection& connection) { Stream(connection); });
  const TestResponse response = Post(Chat("far", R"(,"stream":true)"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "data: " + FakeDelta("Hello") + "\n\ndata: " + FakeFinish("tool_calls") +
                               "\n\ndata: [DONE]\n\n");
  EXPECT_EQ(response.headers.at("x-hostler-model"), "far");
  const TestResponse with_usage =
      Post(Chat("far", R"(,"stream":true,"stream_options":{"include_usage":true})"));
  EXPECT_THAT(with_usage.body, HasSubstr(FakeUsage(9, 4)));
}

TEST_F(UpstreamHttpTest, WholeAnswersAreTheUpstreamsOwn) {
  const std::string body = FakeWhole("Hello");
  Start([body](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(200, "application/json", body);
  });
  for (const char* model : {"far", "to-far"}) {
    const TestResponse response = Post(Chat(model));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, body);
  }
}

TEST_F(UpstreamHttpTest, RequestsGoUnchangedButForTheModel) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(200, "application/json", FakeWhole("x"));
  });
  // What no engine here can do, and what nobody knows.
  const std::string more =
      R"(, "response_format":{"type":"json_object"},"tool_choice":"required","temperature":1.50,)"
      R"("new":{"a":[1e2,null]},"top_logprobs":99)";
  EXPECT_EQ(
      Post(Chat("far", more), "/v1/chat/completions", "Authorization: Bearer mine\r\n").status,
      200);
  EXPECT_EQ(fake_->requests()[0].body, Chat("real", more));
  EXPECT_FALSE(fake_->requests()[0].headers.contains("authorization"));
  EXPECT_EQ(Post(Chat("to-far", more)).status, 200);
  EXPECT_EQ(fake_->requests()[1].body, Chat("real", more));
  // An engine refuses it as ever, whether it was named or chosen.
  EXPECT_EQ(Post(Chat("small", more)).status, 400);
  const TestResponse chosen = Post(Chat("auto", R"(,"response_format":{"type":"json_object"})"));
  EXPECT_EQ(chosen.status, 400);
  EXPECT_THAT(chosen.body, HasSubstr("response_format"));
}

TEST_F(UpstreamHttpTest, ErrorsAreTheUpstreamsOwn) {
  const std::string body = R"({"error":{"message":"no such thing","type":"x","code":"y"}})";
  Start([body](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(422, "application/json", body);
  });
  for (const char* stream : {"", R"(,"stream":true)"}) {
    const TestResponse response = Post(Chat("far", stream));
    EXPECT_EQ(response.status, 422);
    EXPECT_EQ(response.body, body);
  }
}

TEST_F(UpstreamHttpTest, PagesAreNotPassedOn) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(502, "text/html", "<html>Bad Gateway</html>");
  });
  const TestResponse response = Post(Chat("far"));
  EXPECT_EQ(response.status, 502);
  EXPECT_THAT(response.body,
              HasSubstr(R"({"error":{"message":"upstream \"far\" answered HTTP 502)"));
  EXPECT_THAT(response.body, Not(HasSubstr("html>")));
}

TEST_F(UpstreamHttpTest, RateLimitsComeWithTheirRetryAfter) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(429, "application/json", "{}", "Retry-After: 17\r\n");
  });
  const TestResponse response = Post(Chat("far"));
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers.at("retry-after"), "17");
}

TEST_F(UpstreamHttpTest, ATruncatedStreamEndsInAnErrorAndIsCutOff) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hello"));
    connection.EndStream();
  });
  TestClient client(port());
  client.SendRequest("POST", "/v1/chat/completions", Chat("far", R"(,"stream":true)"));
  const std::string text = client.ReadAll();
  EXPECT_TRUE(client.closed());
  EXPECT_THAT(text, HasSubstr(FakeDelta("Hello")));
  EXPECT_THAT(text, HasSubstr(R"(data: {"error":{"message":"upstream \"far\" ended its stream)"));
  EXPECT_THAT(text, Not(HasSubstr("[DONE]\n\n")));
}

TEST_F(UpstreamHttpTest, AClientThatLeavesEndsTheUpstreamsWork) {
  std::atomic<bool> closed = false;
  Start([&](const FakeRequest&, FakeConnection& connection) {
    connection.BeginStream();
    connection.Data(FakeDelta("Hello"));
    closed = connection.WaitUntilClosed();
    connection.CloseAfter();
  });
  {
    TestClient client(port());
    client.SendRequest("POST", "/v1/chat/completions", Chat("far", R"(,"stream":true)"));
    EXPECT_THAT(client.ReadUntil("Hello"), HasSubstr("Hello"));
  }
  for (int i = 0; i < 1000 && !closed; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(closed);
}

TEST_F(UpstreamHttpTest, SeveralPromptsGoTogetherToANamedUpstream) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(200, "application/json",
                     R"({"choices":[{"index":0,"text":"a","finish_reason":"stop"},)"
                     R"({"index":1,"text":"b","finish_reason":"stop"}]})");
  });
  const TestResponse response = Post(R"({"model":"far","prompt":["x","y"]})", "/v1/completions");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(fake_->requests().size(), 1);
  EXPECT_EQ(fake_->requests()[0].body, R"({"model":"real","prompt":["x","y"]})");
  EXPECT_THAT(response.body, testing::StartsWith(R"({"choices":[{"index":0,"text":"a")"));
}

TEST_F(UpstreamHttpTest, SeveralPromptsOfAVirtualModelGoOneByOne) {
  Start([](const FakeRequest& request, FakeConnection& connection) {
    const bool first = request.body.find("\"x\"") != request.body.npos;
    connection.Reply(200, "application/json",
                     std::string(R"({"choices":[{"index":0,"text":")") + (first ? "a" : "b") +
                         R"(","finish_reason":"stop"}],)"
                         R"("usage":{"prompt_tokens":3,"completion_tokens":1}})");
  });
  const TestResponse response = Post(R"({"model":"to-far","prompt":["x","y"]})", "/v1/completions");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(fake_->requests().size(), 2);
  EXPECT_THAT(response.body, HasSubstr(R"({"index":0,"text":"a")"));
  EXPECT_THAT(response.body, HasSubstr(R"({"index":1,"text":"b")"));
  EXPECT_THAT(response.body, HasSubstr(R"("prompt_tokens":6,"completion_tokens":2)"));
}

TEST_F(UpstreamHttpTest, WhatNeedsAnEngineSaysSo) {
  Start([](const FakeRequest&, FakeConnection&) {});
  for (const auto& [path, body] :
       {std::pair<std::string, std::string>("/tokenize", R"({"model":"far","prompt":"x"})"),
        std::pair<std::string, std::string>("/detokenize", R"({"model":"far","tokens":[1]})"),
        std::pair<std::string, std::string>("/admin/cache",
                                            R"({"model":"far","expert_memory":"1MiB"})")}) {
    const TestResponse response = Post(body, path);
    EXPECT_GE(response.status, 400) << path;
    EXPECT_THAT(response.body, HasSubstr("upstream")) << path;
  }
  const TestResponse models = TestClient(port()).Get("/v1/models");
  EXPECT_THAT(models.body, HasSubstr(R"("id":"far")"));
}

TEST_F(UpstreamHttpTest, MetricsCountUsageAndCost) {
  Start([](const FakeRequest&, FakeConnection& connection) {
    connection.Reply(200, "application/json", FakeWhole("x", 1000, 500));
  });
  EXPECT_EQ(Post(Chat("far")).status, 200);
  const std::string text = TestClient(port()).Get("/metrics").body;
  for (const char* line : {"hostler:upstream_requests_total{model_name=\"far\"} 1",
                           "hostler:upstream_cost_usd_total{model_name=\"far\"} 0.002",
                           "hostler:upstream_tokens_total{model_name=\"far\",kind=\"prompt\"} 1000",
                           "hostler:upstream_errors_total{model_name=\"far\",reason=\"server\"} 0",
                           "hostler:upstream_health{model_name=\"far\",state=\"healthy\"} 1",
                           "hostler:upstream_request_seconds_count{model_name=\"far\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace hostler
