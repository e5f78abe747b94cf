#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/http/test_server.h"

namespace hostler {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kCompletion[] = R"({"model":"small","prompt":"abc"})";
constexpr char kStreamed[] = R"({"model":"small","prompt":"abc","stream":true})";

// -- Answers ------------------------------------------------------------------

TEST_F(HttpTest, CompletesATextAndKeepsTheConnection) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  for (int i = 0; i < 3; ++i) {
    const TestResponse response = client.Post("/v1/completions", kCompletion);
    ASSERT_EQ(response.status, 200) << response.body;
    const json body = json::parse(response.body);
    EXPECT_EQ(body["object"], "text_completion");
    EXPECT_EQ(body["choices"][0]["text"], "Hello world");
    EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(body["usage"]["total_tokens"], 5);
    EXPECT_EQ(response.headers.at("x-hostler-model"), "small");
    EXPECT_EQ(response.headers.at("x-request-id"), body["id"]);
    EXPECT_THAT(response.headers.at("x-hostler-route"), HasSubstr("explicit"));
    EXPECT_EQ(response.headers.at("content-type"), "application/json");
  }
}

TEST_F(HttpTest, StreamsAChat) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const TestResponse response =
      client.Post("/v1/chat/completions",
                  R"({"model":"small","messages":[{"role":"user","content":"hi"}],"stream":true})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_THAT(response.headers.at("content-type"), StartsWith("text/event-stream"));
  EXPECT_THAT(response.body, HasSubstr(R"("delta":{"role":"assistant","content":""})"));
  EXPECT_THAT(response.body, HasSubstr(R"("delta":{"content":"Hello"})"));
  EXPECT_THAT(response.body, HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  // The connection lives on.
  EXPECT_EQ(client.Get("/health").status, 200);
}

TEST_F(HttpTest, AnswersPromptListsInOrderWithAllTheirChoices) {
  StartServer();
  TestClient client(port());
  client.SendRequest("POST", "/v1/completions", R"({"model":"small","prompt":["a","b"],"n":2})");
  for (int prompt : {1, 0}) {
    auto [request, stream] = small_->WaitForRequest(prompt);
    for (int i : {1, 0}) {
      stream->Push(LastEvent(std::get<std::string>(request.prompt) + std::to_string(i), i));
    }
    stream->End(absl::OkStatus(), {.prompt_tokens = 1, .completion_tokens = 2}, {});
  }
  const json body = json::parse(client.Read().body);
  const std::string texts[] = {"a0", "a1", "b0", "b1"};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(body["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
}

TEST_F(HttpTest, EchoesTokenPromptsAsText) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const json body = json::parse(
      client.Post("/v1/completions", R"({"model":"small","prompt":[104,105],"echo":true})").body);
  EXPECT_EQ(body["choices"][0]["text"], "hiHello world");
}

TEST_F(HttpTest, RoutesVirtualModelsAndSaysWhere) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const TestResponse response =
      client.Post("/v1/completions", R"({"model":"auto","prompt":"abc"})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("x-hostler-model"), "small");
  EXPECT_THAT(response.headers.at("x-hostler-route"), HasSubstr("static"));
  EXPECT_EQ(json::parse(response.body)["model"], "small");
}

TEST_F(HttpTest, EchoesASaneRequestIdOnly) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  EXPECT_EQ(client.Post("/v1/completions", kCompletion, "X-Request-Id: my-id_1\r\n")
                .headers.at("x-request-id"),
            "my-id_1");
  EXPECT_THAT(client.Post("/v1/completions", kCompletion, "X-Request-Id: <b>\r\n")
                  .headers.at("x-request-id"),
              StartsWith("cmpl-"));
}

// -- Other routes -------------------------------------------------------------

TEST_F(HttpTest, ListsTargetsAndVirtualModels) {
  StartServer();
  TestClient client(port());
  const json body = json::parse(client.Get("/v1/models").body);
  EXPECT_EQ(body["object"], "list");
  ASSERT_EQ(body["data"].size(), 3);
  EXPECT_EQ(body["data"][0]["id"], "small");
  EXPECT_EQ(body["data"][0]["object"], "model");
  EXPECT_EQ(body["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(body["data"][2]["id"], "auto");
  EXPECT_EQ(json::parse(client.Get("/v1/models/org/large").body)["id"], "org/large");
  EXPECT_EQ(json::parse(client.Get("/v1/models/org%2flarge?x=1").body)["id"], "org/large");
  const TestResponse missing = client.Get("/v1/models/none");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(json::parse(missing.body)["error"]["code"], "model_not_found");
}

TEST_F(HttpTest, TokenizesAndDetokenizes) {
  StartServer();
  TestClient client(port());
  EXPECT_EQ(client.Post("/tokenize", R"({"model":"small","prompt":"hi"})").body,
            R"({"count":2,"max_model_len":4096,"tokens":[104,105]})");
  EXPECT_EQ(client.Post("/tokenize", R"({"messages":[{"role":"user","content":"a"}]})").status,
            200);
  EXPECT_EQ(client.Post("/detokenize", R"({"tokens":[104,105]})").body, R"({"prompt":"hi"})");
  const TestResponse outside = client.Post("/detokenize", R"({"tokens":[1,256]})");
  EXPECT_EQ(outside.status, 400);
  EXPECT_EQ(json::parse(outside.body)["error"]["param"], "tokens[1]");
  EXPECT_EQ(client.Post("/tokenize", R"({"model":"none","prompt":"hi"})").status, 404);
}

TEST_F(HttpTest, TellsHealthVersionAndMetrics) {
  StartServer();
  TestClient client(port());
  EXPECT_EQ(client.Get("/health").status, 200);
  EXPECT_THAT(client.Get("/version").body, HasSubstr("\"version\":\""));
  const TestResponse metrics = client.Get("/metrics");
  EXPECT_THAT(metrics.headers.at("content-type"), StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics.body, HasSubstr("hostler:"));
  service_.SetDraining();
  EXPECT_EQ(client.Get("/health").status, 503);
  const TestResponse refused = client.Post("/v1/completions", kCompletion);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
}

TEST_F(HttpTest, ServesTheLivePage) {
  StartServer();
  TestClient client(port());
  const TestResponse page = client.Get("/");
  EXPECT_THAT(page.headers.at("content-type"), StartsWith("text/html"));
  EXPECT_THAT(page.body, StartsWith("<!doctype html>"));
  // Nothing is fetched from elsewhere.
  EXPECT_THAT(page.body, testing::Not(HasSubstr("https://")));
  client.SendRequest("HEAD", "/");
  EXPECT_EQ(client.Read(/*has_body=*/false).headers.at("content-length"),
            std::to_string(page.body.size()));
  EXPECT_EQ(client.Get("/health").status, 200);
}

// -- Errors -------------------------------------------------------------------

TEST_F(HttpTest, RefusesUnknownPathsAndMethods) {
  StartServer();
  TestClient client(port());
  const TestResponse unknown = client.Get("/v2/none");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(json::parse(unknown.body)["error"]["message"], HasSubstr("/v2/none"));
  const TestResponse wrong = client.Get("/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
  EXPECT_EQ(client.Post("/v1/models", "{}").headers.at("allow"), "GET, HEAD");
  client.SendRequest("OPTIONS", "/v1/chat/completions");
  const TestResponse preflight = client.Read();
  EXPECT_EQ(preflight.status, 405);
  EXPECT_EQ(preflight.headers.count("access-control-allow-origin"), 0);
}

TEST_F(HttpTest, RefusesBadBodiesAndLivesOn) {
  StartServer();
  TestClient client(port());
  for (const char* body : {"", "{", "[]", "{\"prompt\":\"\xff\"}", "{\"prompt\":7}", "\x80"}) {
    const TestResponse response = client.Post("/v1/completions", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_EQ(json::parse(response.body)["error"]["type"], "invalid_request_error") << body;
  }
  const json error = json::parse(
      client.Post("/v1/chat/completions", R"({"messages":[{"role":"user","content":1}]})").body);
  EXPECT_EQ(error["error"]["param"], "messages[0].content");
}

TEST_F(HttpTest, RefusesModelsThereAreNot) {
  StartServer();
  TestClient client(port());
  const TestResponse response = client.Post("/v1/completions", R"({"model":"x","prompt":"a"})");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(json::parse(response.body)["error"]["code"], "model_not_found");
}

TEST_F(HttpTest, PassesTheEnginesRefusalOn) {
  small_->refuse = absl::ResourceExhaustedError("the queue is full");
  StartServer();
  TestClient client(port());
  const TestResponse response = client.Post("/v1/completions", kStreamed);
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers.at("retry-after"), "1");
  EXPECT_EQ(json::parse(response.body)["error"]["message"], "the queue is full");
}

TEST_F(HttpTest, AFailureBeforeTheFirstTokenHasAStatus) {
  small_->on_submit = [](const GenerateRequest&, GenerateStream& stream, Usage) {
    stream.End(absl::InternalError("no bytes"), {}, {});
  };
  StartServer();
  TestClient client(port());
  for (const char* body : {kCompletion, kStreamed}) {
    const TestResponse response = client.Post("/v1/completions", body);
    EXPECT_EQ(response.status, 500);
    EXPECT_EQ(json::parse(response.body)["error"]["message"], "no bytes");
  }
}

TEST_F(HttpTest, AFailureInAStreamIsItsLastEvent) {
  small_->on_submit = [](const GenerateRequest&, GenerateStream& stream, Usage) {
    stream.Push(TextEvent("Hel"));
    stream.End(absl::InternalError("no bytes"), {}, {});
  };
  StartServer();
  TestClient client(port());
  client.SendRequest("POST", "/v1/completions", kStreamed);
  const std::string all = client.ReadAll();
  EXPECT_TRUE(client.closed());
  EXPECT_THAT(all, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(all, HasSubstr(R"("text":"Hel")"));
  EXPECT_THAT(all, HasSubstr("data: {\"error\":{\"message\":\"no bytes\""));
  EXPECT_THAT(all, testing::Not(HasSubstr("[DONE]")));
}

TEST_F(HttpTest, RefusesPostsThatAnotherSitesPageSentUnasked) {
  AnswerAtOnce(small_);
  StartServer();
  TestClient client(port());
  const std::string origin = "Origin: http://evil.example\r\n";
  const std::string json_type = "Content-Type: application/json\r\n";
  EXPECT_EQ(client.Post("/v1/completions", kCompletion, origin).status, 403);
  EXPECT_EQ(client.Post("/v1/completions", kCompletion, origin + json_type).status, 200);
  EXPECT_EQ(client.Post("/v1/completions", kCompletion, "Origin: http://test\r\n").status, 200);
}

}  // namespace
}  // namespace hostler
