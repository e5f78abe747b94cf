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

}  // namespace
}  // namespace hostler
