// What clients are told of routing, and may say about it.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "router/policy/scored_policy.h"
#include "server/http/test_server.h"

namespace hostler {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class RouteTest : public HttpTest {
 protected:
  RouteTest() {
    ScoredRoutingOptions options;
    options.targets = {{.target = "small", .quality = 0.6},
                       {.target = "org/large", .quality = 0.9}};
    options.limits.min_quality = 0.5;
    EXPECT_TRUE(router_
                    .AddVirtualModel("smart", std::make_unique<ScoredRoutingPolicy>(
                                                  options, NewCostQuality(std::nullopt)))
                    .ok());
    AnswerAtOnce(small_);
    AnswerAtOnce(large_);
    StartServer();
    client_ = std::make_unique<TestClient>(port());
  }

  std::unique_ptr<TestClient> client_;
};

TEST_F(RouteTest, HeadersSayWhoAnsweredAndWhy) {
  const auto response = client_->Post("/v1/completions", R"({"model":"smart","prompt":"abc"})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("x-hostler-model"), "small");
  EXPECT_EQ(response.headers.at("x-hostler-policy"), "cost_quality/floor");
  EXPECT_EQ(response.headers.at("x-hostler-quality"), "0.6");
  EXPECT_FALSE(json::parse(response.body).contains("hostler"));
}

TEST_F(RouteTest, ExplainsInTheBodyWhenAsked) {
  const auto response =
      client_->Post("/v1/completions", R"({"model":"smart","prompt":"abc","explain":true})");
  const json told = json::parse(response.body).at("hostler");
  EXPECT_EQ(told["model"], "small");
  EXPECT_EQ(told["rule"], "floor");
  EXPECT_EQ(told["candidates"].size(), 2u);
  EXPECT_EQ(told["candidates"][1]["quality"], 0.9);
  EXPECT_TRUE(told["candidates"][1]["latency_s"].is_null()) << "not known yet";
  EXPECT_EQ(told["outcome"]["completion_tokens"], 2);
  const std::string stream =
      client_
          ->Post("/v1/completions",
                 R"({"model":"smart","prompt":"abc","explain":true,"stream":true})")
          .body;
  const size_t at = stream.find("\"hostler\":");
  ASSERT_NE(at, stream.npos) << stream;
  EXPECT_LT(at, stream.find("data: [DONE]"));
}

TEST_F(RouteTest, ARequestMaySetBounds) {
  const auto better = client_->Post(
      "/v1/completions", R"({"model":"smart","prompt":"a","hostler":{"min_quality":0.8}})");
  EXPECT_EQ(better.headers.at("x-hostler-model"), "org/large");
  const auto broke = client_->Post("/v1/completions",
                                   R"({"model":"smart","prompt":"a","hostler":{"max_cost":0}})");
  EXPECT_EQ(broke.status, 400);
  EXPECT_THAT(broke.body, HasSubstr("hostler.max_cost"));
  const auto bad = client_->Post("/v1/completions",
                                 R"({"model":"smart","prompt":"a","hostler":{"min_quality":1.5}})");
  EXPECT_EQ(bad.status, 400);
  EXPECT_THAT(bad.body, HasSubstr("hostler.min_quality"));
}

TEST_F(RouteTest, RouteAnswersWithoutRunning) {
  const auto response =
      client_->Post("/v1/route", R"({"model":"smart","messages":[{"role":"user","content":"x"}]})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(json::parse(response.body)["model"], "small");
  EXPECT_THAT(client_->Get("/metrics").body,
              Not(HasSubstr("hostler:route_decisions_total{policy=\"cost_quality\"")));
  EXPECT_EQ(client_->Post("/v1/route", R"({"model":"none","prompt":"x"})").status, 404);
}

TEST_F(RouteTest, FeedbackCountsOnce) {
  const json answer =
      json::parse(client_->Post("/v1/completions", R"({"model":"smart","prompt":"abc"})").body);
  const auto send = [&](const json& body) { return client_->Post("/v1/feedback", body.dump()); };
  EXPECT_EQ(send({{"id", answer["id"]}, {"good", true}}).status, 200);
  EXPECT_EQ(send({{"id", answer["id"]}, {"good", true}}).status, 404) << "judged already";
  EXPECT_EQ(send({{"id", "cmpl-unknown"}, {"score", 0.5}}).status, 404);
  EXPECT_EQ(send({{"id", answer["id"]}}).status, 400);
  EXPECT_EQ(send({{"id", answer["id"]}, {"score", 2}}).status, 400);
  EXPECT_THAT(
      client_->Get("/metrics").body,
      HasSubstr("hostler:route_feedback_total{target=\"small\",virtual_model=\"smart\"} 1"));
}

TEST_F(RouteTest, ReloadingNeedsARouterFile) {
  client_->Send(
      "POST /admin/router/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
  const TestResponse reply = client_->Read();
  EXPECT_EQ(reply.status, 404) << reply.body;
}

}  // namespace
}  // namespace hostler
