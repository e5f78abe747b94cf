// The pieces that do no I/O.
#include <chrono>

#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/upstream/answer_reader.h"
#include "router/upstream/encode.h"
#include "router/upstream/errors.h"
#include "router/upstream/health.h"
#include "router/upstream/json_edit.h"
#include "router/upstream/sse.h"
#include "router/upstream/url.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using TimePoint = HealthTracker::TimePoint;
using Admission = HealthTracker::Admission;

TEST(UpstreamUrlTest, TakesBaseUrlsAsClientsWriteThem) {
  const auto plain = ParseUpstreamUrl("http://127.0.0.1:8000");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->base, "/v1");
  EXPECT_EQ(plain->Authority(), "127.0.0.1:8000");
  const auto cloud = ParseUpstreamUrl("https://api.example.com/openai/v1/");
  ASSERT_TRUE(cloud.ok());
  EXPECT_TRUE(cloud->tls);
  EXPECT_EQ(cloud->port, 443);
  EXPECT_EQ(cloud->base, "/openai/v1");
  EXPECT_EQ(cloud->Authority(), "api.example.com");
  const auto v6 = ParseUpstreamUrl("http://[::1]:9/v1");
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->Authority(), "[::1]:9");
}

TEST(UpstreamUrlTest, RefusesOthersWithoutRepeatingThem) {
  for (const char* url :
       {"", "ftp://x", "127.0.0.1:80", "http://", "http://:80", "http://x:0", "http://x:99999",
        "http://x:8a", "http://u:secret@x", "http://x/v1?secret", "http://x/a b",
        "http://x\r\nHost: y", "http://[::1", "http://[x]/"}) {
    const auto parsed = ParseUpstreamUrl(url);
    EXPECT_FALSE(parsed.ok()) << url;
    EXPECT_THAT(std::string(parsed.status().message()), testing::Not(HasSubstr("secret")));
  }
}

TEST(JsonEditTest, LeavesEveryOtherByteAsItIs) {
  EXPECT_EQ(*EditJson(R"( {"a" : 1.50, "model":"x","b":{"model":"y"} , "c":[1e2,"}"]} )",
                      {{"model", "\"real\""}}),
            R"( {"a" : 1.50, "model":"real","b":{"model":"y"} , "c":[1e2,"}"]} )");
}

TEST(JsonEditTest, PutsWhatIsMissingFirst) {
  EXPECT_EQ(*EditJson(R"({"a":"\"}"})", {{"model", "\"m\""}, {"b", "true"}}),
            R"({"model":"m","b":true,"a":"\"}"})");
  EXPECT_EQ(*EditJson("{ }", {{"model", "1"}}), R"({"model":1 })");
  EXPECT_EQ(*EditJson("\xef\xbb\xbf{}", {{"model", "1"}}), R"({"model":1})");
}

TEST(JsonEditTest, FindsEveryWayToWriteAKey) {
  EXPECT_EQ(*EditJson(R"({"mod\u0065l":"x","model":["y"]})", {{"model", "1"}}),
            R"({"mod\u0065l":1,"model":1})");
}

TEST(JsonEditTest, RefusesWhatIsNoObject) {
  for (const char* text :
       {"", "[]", "{", R"({"a)", R"({"a":)", R"({"a" 1})", "{a:1}", R"({"a":[)"}) {
    EXPECT_FALSE(EditJson(text, {{"model", "1"}}).ok()) << text;
  }
}

std::vector<std::string> FeedEach(SseReader* reader, const std::string& bytes, size_t piece) {
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    EXPECT_TRUE(reader->Feed(bytes.substr(at, piece), &events).ok());
  }
  return events;
}

TEST(SseReaderTest, ReadsEventsHoweverTheyAreCut) {
  const std::string text =
      "\xef\xbb\xbf"
      ": hello\n\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\nid: 7\n\ndata\n\n"
      "error: {\"e\":1}\r\rdata: half";
  for (size_t piece = 1; piece < 20; ++piece) {
    SseReader reader(1000);
    EXPECT_THAT(FeedEach(&reader, text, piece),
                ElementsAre("{\"a\":1}", "two lines", "", "{\"e\":1}"))
        << piece;
    EXPECT_TRUE(reader.partial());
  }
}

TEST(SseReaderTest, RefusesEndlessLinesAndEvents) {
  std::vector<std::string> events;
  SseReader line(100);
  EXPECT_FALSE(line.Feed("data: " + std::string(200, 'x'), &events).ok());
  SseReader comment(100);
  EXPECT_FALSE(comment.Feed(":" + std::string(200, 'x'), &events).ok());
  SseReader lines(100);
  absl::Status status;
  for (int i = 0; i < 200 && status.ok(); ++i) status = lines.Feed("data: x\n", &events);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(events.empty());
}

AnswerReader ChatReader(bool hide_usage = true, int n = 1) {
  return AnswerReader(
      {.upstream = "up", .n = n, .chat = true, .pass_through = true, .hide_usage = hide_usage});
}

TEST(AnswerReaderTest, ReadsTextAndEndAndKeepsTheJson) {
  AnswerReader reader = ChatReader();
  std::vector<GenerateEvent> events;
  const std::string tool =
      R"({"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]},"x":1,"finish_reason":null}]})";
  ASSERT_TRUE(reader.ReadChunk(R"({"choices":[{"delta":{"role":"assistant"}}]})", &events).ok());
  ASSERT_TRUE(
      reader.ReadChunk(R"({"choices":[{"index":0,"delta":{"content":"Hi"}}]})", &events).ok());
  ASSERT_TRUE(reader.ReadChunk(tool, &events).ok());
  EXPECT_FALSE(reader.complete());
  ASSERT_TRUE(
      reader.ReadChunk(R"({"choices":[{"delta":{},"finish_reason":"length"}]})", &events).ok());
  ASSERT_EQ(events.size(), 4);
  EXPECT_EQ(events[0].unnamed_tokens, 0);
  EXPECT_EQ(events[1].text, "Hi");
  EXPECT_EQ(events[1].unnamed_tokens, 1);
  EXPECT_EQ(events[2].wire, tool);
  EXPECT_EQ(events[2].unnamed_tokens, 1);
  EXPECT_EQ(events[3].finish_reason, FinishReason::kLength);
  EXPECT_TRUE(reader.complete());
  EXPECT_FALSE(reader.usage_told());
  EXPECT_EQ(reader.usage().completion_tokens, 2);
}

TEST(AnswerReaderTest, HidesTheUsageOnlyFromThoseWhoDidNotAsk) {
  const std::string usage = R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,)"
                            R"("prompt_tokens_details":{"cached_tokens":4}}})";
  for (const bool hide : {true, false}) {
    AnswerReader reader = ChatReader(hide);
    std::vector<GenerateEvent> events;
    ASSERT_TRUE(reader.ReadChunk(usage, &events).ok());
    EXPECT_EQ(events.size(), hide ? 0 : 1);
    EXPECT_EQ(reader.usage().prompt_tokens, 7);
    EXPECT_EQ(reader.usage().completion_tokens, 3);
    EXPECT_EQ(reader.usage().cached_prompt_tokens, 4);
    EXPECT_TRUE(reader.usage_told());
  }
}

TEST(AnswerReaderTest, OneSequenceThatIsNotEndedIsNotComplete) {
  AnswerReader reader = ChatReader(true, 2);
  std::vector<GenerateEvent> events;
  ASSERT_TRUE(reader
                  .ReadChunk(R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"},)"
                             R"({"index":1,"delta":{"content":"a"}}]})",
                             &events)
                  .ok());
  EXPECT_EQ(events.size(), 2);
  EXPECT_FALSE(events[0].wire.empty());
  EXPECT_TRUE(events[1].wire.empty());
  EXPECT_FALSE(reader.complete());
}

TEST(AnswerReaderTest, RefusesWhatIsNoAnswer) {
  const std::string deep(1000, '[');
  for (const std::string& text :
       {std::string("<html>"), std::string("[]"), deep, std::string("{\"choices\":1}"),
        std::string("{\"choices\":[1]}"), std::string("{\"choices\":[{\"index\":1}]}"),
        std::string("{\"choices\":[{\"index\":-1}]}"),
        std::string("{\"choices\":[{\"index\":18446744073709551615}]}"),
        std::string("{\"choices\":[{\"index\":\"0\"}]}"), std::string("{\"a\":\"\xff\"}")}) {
    AnswerReader reader = ChatReader();
    std::vector<GenerateEvent> events;
    const absl::Status status = reader.ReadChunk(text, &events);
    EXPECT_TRUE(absl::IsUnavailable(status)) << text.substr(0, 50) << ": " << status;
    EXPECT_EQ(FindWireError(status)->http_status, 502);
    EXPECT_FALSE(reader.reported());
  }
}

TEST(AnswerReaderTest, PassesOnAnErrorInTheStream) {
  AnswerReader reader = ChatReader();
  std::vector<GenerateEvent> events;
  const std::string json = R"({"error":{"code":429,"message":"slow down"}})";
  const absl::Status status = reader.ReadChunk(json, &events);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(FindWireError(status)->body, json);
  EXPECT_TRUE(reader.reported());
}

TEST(UpstreamErrorTest, EveryStatusSaysWhatToDo) {
  const auto error = [](int code, bool own_key = true) {
    return HttpError("up", {code, "application/json", R"({"error":{"message":"why"}})", 7},
                     own_key);
  };
  EXPECT_TRUE(absl::IsInvalidArgument(error(400)));
  EXPECT_TRUE(absl::IsInvalidArgument(error(422)));
  EXPECT_TRUE(absl::IsNotFound(error(404)));
  EXPECT_TRUE(absl::IsResourceExhausted(error(429)));
  EXPECT_TRUE(absl::IsUnavailable(error(500)));
  EXPECT_TRUE(absl::IsUnavailable(error(503)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(error(504)));
  EXPECT_EQ(RetryAfterSeconds(error(429)), 7);
  EXPECT_EQ(FindWireError(error(400))->http_status, 400);
  EXPECT_EQ(FindWireError(error(400))->body, R"({"error":{"message":"why"}})");
  // Our credentials are none of the client's business; its own are.
  EXPECT_TRUE(absl::IsUnavailable(error(401)));
  EXPECT_EQ(FindWireError(error(401))->body, "");
  EXPECT_EQ(FindWireError(error(401))->http_status, 502);
  EXPECT_EQ(FindWireError(error(401, false))->http_status, 401);
}

TEST(UpstreamErrorTest, PagesAndRedirectsAreToldOfInWords) {
  const absl::Status page = HttpError("up", {502, "text/html", "<html>", std::nullopt}, true);
  EXPECT_THAT(std::string(page.message()), HasSubstr("HTTP 502 with text/html"));
  EXPECT_EQ(FindWireError(page)->body, "");
  const absl::Status redirect = HttpError("up", {302, "", "", std::nullopt}, true);
  EXPECT_TRUE(absl::IsUnavailable(redirect));
  EXPECT_THAT(std::string(redirect.message()), HasSubstr("redirect"));
}

TEST(UpstreamErrorTest, ReadsRetryAfterInBothForms) {
  EXPECT_EQ(ParseRetryAfter("12"), 12);
  EXPECT_EQ(ParseRetryAfter("99999999999999"), 86400);
  EXPECT_EQ(ParseRetryAfter("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
  EXPECT_EQ(ParseRetryAfter("soon"), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("-1"), std::nullopt);
  EXPECT_EQ(ParseRetryAfter(""), std::nullopt);
}

GenerateRequest FromClient(const std::string& json, bool stream, bool include_usage = false) {
  GenerateRequest request;
  request.original = std::make_shared<UpstreamBody>(
      UpstreamBody{"/chat/completions", json, stream, include_usage, "", absl::OkStatus()});
  return request;
}

TEST(EncodeTest, ChangesTheModelAndNothingElse) {
  const auto encoded = EncodeRequest(FromClient(R"({"model":"m","x":[1.0]})", false), "real");
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded->body, R"({"model":"real","x":[1.0]})");
  EXPECT_EQ(encoded->endpoint, "/chat/completions");
  EXPECT_TRUE(encoded->pass_through);
  EXPECT_FALSE(encoded->hide_usage);
}

TEST(EncodeTest, AsksForTheUsageOfAStream) {
  EXPECT_EQ(EncodeRequest(FromClient(R"({"stream":true})", true), "r")->body,
            R"({"model":"r","stream_options":{"include_usage":true},"stream":true})");
  EXPECT_EQ(EncodeRequest(FromClient(R"({"model":1,"stream_options":{"a":2}})", true), "r")->body,
            R"({"model":"r","stream_options":{"a":2,"include_usage":true}})");
  const auto asked =
      EncodeRequest(FromClient(R"({"stream_options":{"include_usage":true}})", true, true), "r");
  EXPECT_EQ(asked->body, R"({"model":"r","stream_options":{"include_usage":true}})");
  EXPECT_FALSE(asked->hide_usage);
}

TEST(EncodeTest, MakesJsonOfWhatCameOtherwise) {
  GenerateRequest request;
  request.prompt = TokenPrompt{1, 2};
  request.max_tokens = 5;
  request.sampling.temperature = 0;
  request.stop = {"x"};
  const auto tokens = EncodeRequest(request, "r");
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->endpoint, "/completions");
  EXPECT_EQ(tokens->body,
            R"({"model":"r","prompt":[1,2],"temperature":0.0,"max_tokens":5,"stop":["x"],)"
            R"("stream":true,"stream_options":{"include_usage":true}})");
  ChatPrompt chat;
  chat.messages = nlohmann::ordered_json::parse(
      R"([{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}])");
  request.prompt = chat;
  const auto encoded = EncodeRequest(request, "r");
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded->endpoint, "/chat/completions");
  EXPECT_THAT(encoded->body, HasSubstr(R"("arguments":"{\"a\":1}")"));
  request.logprobs = 1;
  EXPECT_EQ(ErrorField(EncodeRequest(request, "r").status()), "logprobs");
}

class HealthTest : public testing::Test {
 protected:
  HealthTest() {
    options_.failures = 3;
    options_.failed_checks = 2;
    options_.ejection_s = 10;
    options_.max_ejection_s = 35;
    options_.min_requests = 10;
    options_.error_share = 0.5;
    options_.window_s = 20;
  }
  TimePoint At(double seconds) const {
    return TimePoint() + std::chrono::milliseconds(int64_t(1e6 + seconds * 1000));
  }
  void Fail(int times, double at) {
    for (int i = 0; i < times; ++i) health_->OnFailure(At(at), false);
  }

  HealthOptions options_;
  std::optional<HealthTracker> health_;
};

TEST_F(HealthTest, FailuresInARowEjectAndAProbeBringsBack) {
  health_.emplace(options_);
  Fail(2, 0);
  health_->OnSuccess(At(0), false);
  Fail(2, 0);
  EXPECT_EQ(health_->health(At(0)), Health::kHealthy);
  Fail(1, 0);
  EXPECT_EQ(health_->health(At(0)), Health::kEjected);
  EXPECT_EQ(health_->Admit(At(9)), Admission::kNo);
  EXPECT_NEAR(health_->RetryAfter(At(4)), 6, 0.01);
  EXPECT_EQ(health_->health(At(11)), Health::kProbing);
  EXPECT_EQ(health_->Admit(At(11)), Admission::kProbe);
  EXPECT_EQ(health_->Admit(At(11)), Admission::kNo);
  health_->OnSuccess(At(12), true);
  EXPECT_EQ(health_->Admit(At(12)), Admission::kYes);
  EXPECT_EQ(health_->ejections(), 1);
}

TEST_F(HealthTest, EjectionsThatDoNotHelpGrowUpToALimit) {
  health_.emplace(options_);
  Fail(3, 0);
  double at = 0;
  for (const double lasts : {10, 20, 35, 35}) {
    EXPECT_NEAR(health_->RetryAfter(At(at)), lasts, 0.01);
    at += lasts + 1;
    ASSERT_EQ(health_->Admit(At(at)), Admission::kProbe);
    health_->OnFailure(At(at), true);
  }
  at += 36;
  ASSERT_EQ(health_->Admit(At(at)), Admission::kProbe);
  health_->OnSuccess(At(at), true);
  // Well for long enough: it begins anew.
  health_->OnSuccess(At(at + 40), false);
  Fail(3, at + 41);
  EXPECT_NEAR(health_->RetryAfter(At(at + 41)), 10, 0.01);
}

TEST_F(HealthTest, AProbeThatWasCancelledLeavesRoomForAnother) {
  health_.emplace(options_);
  Fail(3, 0);
  ASSERT_EQ(health_->Admit(At(11)), Admission::kProbe);
  health_->OnNeutral(true);
  EXPECT_EQ(health_->Admit(At(11)), Admission::kProbe);
}

TEST_F(HealthTest, AShareOfErrorsEjects) {
  health_.emplace(options_);
  for (int i = 0; i < 5; ++i) {
    health_->OnSuccess(At(i), false);
    health_->OnFailure(At(i), false);
  }
  EXPECT_EQ(health_->health(At(5)), Health::kEjected);
}

TEST_F(HealthTest, OldErrorsDoNotCount) {
  health_.emplace(options_);
  for (int i = 0; i < 4; ++i) {
    health_->OnSuccess(At(0), false);
    health_->OnFailure(At(0), false);
  }
  for (int i = 0; i < 4; ++i) {
    health_->OnSuccess(At(100 + i), false);
    health_->OnFailure(At(100 + i), false);
  }
  EXPECT_EQ(health_->health(At(104)), Health::kHealthy);
}

TEST_F(HealthTest, ChecksEjectAndBringBackButNotFromFailedRequests) {
  health_.emplace(options_);
  health_->OnCheck(At(0), false);
  EXPECT_EQ(health_->health(At(0)), Health::kHealthy);
  health_->OnCheck(At(1), false);
  EXPECT_EQ(health_->health(At(1)), Health::kEjected);
  health_->OnCheck(At(2), true);
  EXPECT_EQ(health_->health(At(2)), Health::kHealthy);
  Fail(3, 3);
  health_->OnCheck(At(4), true);
  EXPECT_EQ(health_->health(At(4)), Health::kEjected);
}

TEST_F(HealthTest, RetryAfterIsHeededUpToALimit) {
  health_.emplace(options_);
  health_->OnThrottled(At(0), 5, false);
  EXPECT_EQ(health_->health(At(1)), Health::kThrottled);
  EXPECT_EQ(health_->Admit(At(1)), Admission::kNo);
  EXPECT_EQ(health_->Admit(At(6)), Admission::kYes);
  health_->OnThrottled(At(6), 1e9, false);
  EXPECT_NEAR(health_->RetryAfter(At(6)), 35, 0.01);
}

}  // namespace
}  // namespace hostler
