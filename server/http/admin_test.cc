// /admin/cache over HTTP, and who is answered.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/http/test_server.h"

namespace hostler {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class AdminTest : public HttpTest {
 protected:
  AdminTest() {
    ExpertReport report;
    report.policy = "learned";
    report.reader = "pread";
    report.layers = {{1, 4}, {2, 4}};
    report.demand_reads.counts[0] = 2;
    report.demand_reads.counts[LatencyHistogram::kBuckets - 1] = 1;
    report.miss_ratios = {{0, 1}, {100, 0.5}, {400, 0.25}, {800, 0}};
    small_->expert_report = report;
    small_->plan = {.budget = 1000, .weights = 100, .kv = 300, .experts = 400, .all_experts = 800};
    small_->reported.experts.hits = 3;
    small_->reported.experts.misses = 1;
    small_->reported.experts.reads = 5;
    small_->reported.experts.speculative_reads = 2;
    small_->reported.experts.speculative_wasted_bytes = 77;
  }

  TestResponse Ask(const std::string& method, const std::string& path, const std::string& body = "",
                   const std::string& headers = "Host: 127.0.0.1:8000\r\n") {
    TestClient client(port());
    client.Send(method + " " + path + " HTTP/1.1\r\n" + headers +
                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.Read();
  }

  TestResponse Get(const std::string& path, const std::string& headers) {
    return Ask("GET", path, "", headers);
  }

  // The error of a POST that must be refused with `status`.
  json Refusal(const std::string& body, int status) {
    const TestResponse response = Ask("POST", "/admin/cache", body);
    EXPECT_EQ(response.status, status) << body << response.body;
    return json::parse(response.body)["error"];
  }
};

TEST_F(AdminTest, TellsOfEveryModel) {
  StartServer();
  const json models = json::parse(Ask("GET", "/admin/cache").body)["models"];
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0]["model"], "small");
  EXPECT_EQ(models[0]["memory"]["experts_bytes"], 400);
  EXPECT_EQ(models[0]["memory"]["max_context"], 4096);
  const json& experts = models[0]["experts"];
  EXPECT_EQ(experts["policy"], "learned");
  EXPECT_EQ(experts["hit_rate"], 0.75);
  EXPECT_EQ(experts["reads"]["demand"]["reads"], 3);
  EXPECT_EQ(experts["reads"]["speculative"]["reads"], 2);
  EXPECT_EQ(experts["reads"]["speculative"]["wasted_bytes"], 77);
  EXPECT_EQ(experts["prefetch"]["least_chance"], "off");
  EXPECT_EQ(experts["layers"][1], json({{"resident_bytes", 2}, {"bytes", 4}}));
  EXPECT_EQ(experts["demand_read_seconds"]["count"], 3);
  EXPECT_EQ(experts["demand_read_seconds"]["buckets"],
            json({{{"le", 50e-6}, {"count", 2}}, {{"le", nullptr}, {"count", 1}}}));
  EXPECT_EQ(experts["miss_ratios"][2], json({{"bytes", 400}, {"miss_ratio", 0.25}}));
  EXPECT_EQ(experts["more_memory"], "with 1 MiB more all experts fit (0% hits now)");
  EXPECT_EQ(models[1]["model"], "org/large");
  EXPECT_TRUE(models[1]["experts"].is_null()) << "a dense model";
}

TEST_F(AdminTest, TellsOfOneModel) {
  StartServer();
  for (const char* path : {"/admin/cache?model=org/large", "/admin/cache?x=&model=org%2Flarge&y"}) {
    const json models = json::parse(Ask("GET", path).body)["models"];
    ASSERT_EQ(models.size(), 1u);
    EXPECT_EQ(models[0]["model"], "org/large");
  }
  EXPECT_EQ(Ask("GET", "/admin/cache?model=absent").status, 404);
  EXPECT_EQ(Ask("GET", "/admin/cache?model=auto").status, 404) << "a virtual model";
}

TEST_F(AdminTest, MovesExpertMemory) {
  StartServer();
  const TestResponse response =
      Ask("POST", "/admin/cache", R"({"model":"small","expert_memory":"2KiB"})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json answer = json::parse(response.body);
  EXPECT_EQ(answer["model"], "small");
  EXPECT_EQ(answer["memory"]["experts_bytes"], 2048);
  EXPECT_EQ(Ask("POST", "/admin/cache", R"({"model":"small","expert_memory":512})").status, 200);
  EXPECT_EQ(small_->memory().experts, 512u);
}

TEST_F(AdminTest, RefusesWhatItCannotMove) {
  StartServer();
  EXPECT_EQ(Refusal("{", 400)["type"], "invalid_request_error");
  EXPECT_EQ(Refusal(R"({"expert_memory":1})", 400)["param"], "model") << "there are several";
  EXPECT_EQ(Refusal(R"({"model":"absent","expert_memory":1})", 404)["code"], "model_not_found");
  EXPECT_EQ(Refusal(R"({"model":"auto","expert_memory":1})", 404)["code"], "model_not_found");
  EXPECT_EQ(Refusal(R"({"model":5,"expert_memory":1})", 400)["param"], "model");
  EXPECT_EQ(Refusal(R"({"model":"small","expert_mem":1})", 400)["param"], "expert_mem");
  for (const char* bad : {"-1", "\"much\"", "1.5", "true", "null", "[1]", "1e30", "\"\""}) {
    const std::string body = std::string(R"({"model":"small","expert_memory":)") + bad + "}";
    EXPECT_EQ(Refusal(body, 400)["param"], "expert_memory") << bad;
  }
  EXPECT_EQ(Refusal(R"({"model":"small"})", 400)["param"], "expert_memory");
  small_->refuse_memory = absl::InvalidArgumentError("must be between 1 and 2");
  const json bounds = Refusal(R"({"model":"small","expert_memory":3})", 400);
  EXPECT_EQ(bounds["param"], "expert_memory");
  EXPECT_THAT(bounds["message"].get<std::string>(), HasSubstr("must be between 1 and 2"));
  small_->refuse_memory = absl::FailedPreconditionError("the model has no experts");
  const json dense = Refusal(R"({"model":"small","expert_memory":3})", 400);
  EXPECT_EQ(dense["param"], "model");
  EXPECT_THAT(dense["message"].get<std::string>(), HasSubstr("has no experts"));
  EXPECT_EQ(small_->memory().experts, 400u) << "nothing was moved";
}

TEST_F(AdminTest, IsForThisMachineUnlessTheSettingSaysOtherwise) {
  StartServer();
  for (const char* host :
       {"localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:8000", "127.1.2.3", ""}) {
    EXPECT_EQ(Get("/admin/cache", std::string("Host: ") + host + "\r\n").status, 200) << host;
  }
  for (const char* headers :
       {"Host: evil.example\r\n", "Host: localhost.evil.example:8000\r\n", "Host: 10.1.2.3\r\n",
        "Host: [::2]\r\n", "Host: [::1].evil.example\r\n",
        "Host: localhost\r\nX-Forwarded-For: 8.8.8.8\r\n",
        "Host: localhost\r\nX-Forwarded-Host: box.example\r\n",
        "Host: localhost\r\nX-Forwarded-Proto: https\r\n", "Host: localhost\r\nVia: 1.1 p\r\n"}) {
    for (const char* path : {"/admin/cache", "/admin/cache?model=small", "/%61dmin/cache"}) {
      const TestResponse refused = Get(path, headers);
      EXPECT_EQ(refused.status, 403) << path << headers;
      EXPECT_THAT(refused.body, HasSubstr("the setting admin is local"));
    }
  }
}

TEST_F(AdminTest, TwoHostsAreRefused) {
  StartServer();
  EXPECT_EQ(Get("/admin/cache", "Host: localhost\r\nHost: evil.example\r\n").status, 400);
}

TEST_F(AdminTest, IsForEveryoneWhereTheSettingIsOn) {
  options_.admin = AdminAccess::kOn;
  StartServer();
  EXPECT_EQ(Get("/admin/cache", "Host: box.example\r\nVia: 1.1 p\r\n").status, 200);
}

TEST_F(AdminTest, IsForNobodyWhereTheSettingIsOff) {
  options_.admin = AdminAccess::kOff;
  StartServer();
  EXPECT_EQ(Ask("GET", "/admin/cache").status, 403);
  EXPECT_EQ(Ask("POST", "/admin/cache", R"({"expert_memory":1})").status, 403);
}

TEST(AdminAccessTest, WhoComesFromElsewhereIsRefused) {
  HttpRequest request;
  request.local_host = true;
  EXPECT_TRUE(absl::IsPermissionDenied(CheckAdminAccess(AdminAccess::kLocal, request)));
  request.loopback = true;
  EXPECT_TRUE(CheckAdminAccess(AdminAccess::kLocal, request).ok());
}

}  // namespace
}  // namespace hostler
