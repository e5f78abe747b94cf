#include "server/openai/answer.h"

#include <cmath>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

const AnswerHead kHead = {"id-1", "m", 1700000000};
const Usage kUsage = {.prompt_tokens = 4, .cached_prompt_tokens = 1, .completion_tokens = 3};

GenerateEvent Text(const std::string& text, int index = 0) {
  GenerateEvent event;
  event.index = index;
  event.text = text;
  event.token_ids = {7};
  return event;
}

GenerateEvent Last(const std::string& text, FinishReason reason, int index = 0) {
  GenerateEvent event = Text(text, index);
  event.finish_reason = reason;
  return event;
}

PositionLogprobs Position(const std::string& chosen, float logprob) {
  return {{1, logprob, chosen}, {{2, -0.25f, "b"}, {1, logprob, chosen}}};
}

// What a client gets: what `Begin`, each event and `Finish` append.
struct Sent {
  std::vector<std::string> pieces;
  std::string all() const {
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    return text;
  }
};

Sent Run(std::unique_ptr<Answer> answer, const std::vector<GenerateEvent>& events,
         const PromptInfo& info = {}, const PromptText& text = {}) {
  Sent sent;
  answer->Begin(0, info, text, &sent.pieces.emplace_back());
  for (const GenerateEvent& event : events) answer->Add(0, event, &sent.pieces.emplace_back());
  answer->Finish(kUsage, &sent.pieces.emplace_back());
  return sent;
}

std::string Whole(const AnswerOptions& options, const std::vector<GenerateEvent>& events,
                  const PromptInfo& info = {}, const PromptText& text = {}) {
  return Run(NewWholeAnswer(kHead, options, 1), events, info, text).all();
}

Sent Streamed(AnswerOptions options, const std::vector<GenerateEvent>& events,
              const PromptInfo& info = {}, const PromptText& text = {}) {
  options.stream = true;
  return Run(NewStreamedAnswer(kHead, options, 1), events, info, text);
}

// -- Whole --------------------------------------------------------------------

TEST(WholeAnswer, HasTheShapeOfACompletion) {
  EXPECT_EQ(Whole({}, {Text("a\n"), Last("b", FinishReason::kLength)}),
            R"({"id":"id-1","object":"text_completion","created":1700000000,"model":"m",)"
            R"("choices":[{"index":0,"text":"a\nb","logprobs":null,"finish_reason":"length",)"
            R"("stop_reason":null}],"usage":{"prompt_tokens":4,"completion_tokens":3,)"
            R"("total_tokens":7,"prompt_tokens_details":{"cached_tokens":1}}})");
}

TEST(WholeAnswer, HasTheShapeOfAChat) {
  GenerateEvent last = Last("b", FinishReason::kStop);
  last.stop_reason = "END";
  EXPECT_EQ(Whole({.chat = true}, {Text("a"), last}),
            R"({"id":"id-1","object":"chat.completion","created":1700000000,"model":"m",)"
            R"("choices":[{"index":0,"message":{"role":"assistant","content":"ab",)"
            R"("refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":"END"}],)"
            R"("usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7,)"
            R"("prompt_tokens_details":{"cached_tokens":1}}})");
}

TEST(WholeAnswer, NumbersChoicesByPromptThenSequence) {
  auto answer = NewWholeAnswer(kHead, {.n = 2}, 2);
  std::string out;
  for (int prompt : {1, 0}) {
    answer->Begin(prompt, {}, {}, &out);
    for (int i : {1, 0}) {
      answer->Add(prompt, Last(std::to_string(prompt) + std::to_string(i), FinishReason::kStop, i),
                  &out);
    }
  }
  EXPECT_EQ(out, "");
  answer->Finish(kUsage, &out);
  const Json choices = Json::parse(out)["choices"];
  ASSERT_EQ(choices.size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i]["index"], i);
    EXPECT_EQ(choices[i]["text"], std::to_string(i / 2) + std::to_string(i % 2));
  }
}

TEST(WholeAnswer, EchoesThePromptWithItsLogprobs) {
  GenerateEvent last = Last("c", FinishReason::kLength);
  last.logprobs = {Position("c", -1)};
  const PromptInfo info = {{5, 6}, {Position("é", -0.5f)}};
  const AnswerOptions options = {.echo = true, .logprobs = 2};
  const Json choice = Json::parse(Whole(options, {last}, info, {"aé", "a"}))["choices"][0];
  EXPECT_EQ(choice["text"], "aéc");
  EXPECT_EQ(choice["logprobs"].dump(),
            R"({"tokens":["a","é","c"],"token_logprobs":[null,-0.5,-1],)"
            R"("top_logprobs":[null,{"b":-0.25,"é":-0.5},{"b":-0.25,"c":-1}],)"
            R"("text_offset":[0,1,2]})");
}

TEST(WholeAnswer, EchoesThePromptAlone) {
  GenerateEvent last = Last("c", FinishReason::kLength);
  last.logprobs = {Position("c", -1)};
  const AnswerOptions options = {.echo = true, .echo_only = true, .logprobs = 0};
  const Json choice = Json::parse(Whole(options, {last}, {{5}, {}}, {"a", "a"}))["choices"][0];
  EXPECT_EQ(choice["text"], "a");
  EXPECT_EQ(choice["logprobs"]["tokens"].dump(), R"(["a"])");
  EXPECT_EQ(choice["finish_reason"], "length");
}

TEST(WholeAnswer, HasTheChosenTokenAmongTheTopOnesOnce) {
  GenerateEvent last = Last("x", FinishReason::kStop);
  // Two tokens that read the same, and a choice that is not among the top.
  last.logprobs = {{{9, -3, "z"}, {{1, -1, "a"}, {2, -2, "a"}}}};
  const Json choice = Json::parse(Whole({.logprobs = 2}, {last}))["choices"][0];
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][0].dump(), R"({"a":-1,"z":-3})");
}

TEST(WholeAnswer, GivesChatLogprobsWithBytes) {
  GenerateEvent last = Last("", FinishReason::kStop);
  last.logprobs = {{{9, -INFINITY, "\xc3"}, {{1, -1, "a"}}}};
  const Json choice = Json::parse(Whole({.chat = true, .logprobs = 1}, {last}))["choices"][0];
  EXPECT_EQ(choice["logprobs"].dump(),
            R"({"content":[{"token":"�","logprob":-9999,"bytes":[195],)"
            R"("top_logprobs":[{"token":"a","logprob":-1,"bytes":[97]}]}],"refusal":null})");
}

TEST(WholeAnswer, GivesThePromptsLogprobsWhereTheyAreWanted) {
  const PromptInfo info = {{5, 6}, {{{9, -3, "z"}, {{1, -1, "a"}}}}};
  const std::string wanted = R"([null,{"1":{"logprob":-1,"rank":1,"decoded_token":"a"},)"
                             R"("9":{"logprob":-3,"rank":null,"decoded_token":"z"}}])";
  const std::vector<GenerateEvent> events = {Last("x", FinishReason::kStop)};
  EXPECT_EQ(
      Json::parse(Whole({.prompt_logprobs = 1}, events, info))["choices"][0]["prompt_logprobs"]
          .dump(),
      wanted);
  EXPECT_EQ(
      Json::parse(Whole({.chat = true, .prompt_logprobs = 1}, events, info))["prompt_logprobs"]
          .dump(),
      wanted);
}

// -- Streamed -----------------------------------------------------------------

TEST(StreamedAnswer, SendsACompletionsChunks) {
  const Sent sent = Streamed({}, {Text("a\"b"), Text(""), Last("c", FinishReason::kStop)});
  const std::string head =
      R"(data: {"id":"id-1","object":"text_completion","created":1700000000,"model":"m",)"
      R"("choices":[{"index":0,"text":)";
  EXPECT_THAT(
      sent.pieces,
      testing::ElementsAre(
          "", head + R"("a\"b","logprobs":null,"finish_reason":null}]})" + "\n\n", "",
          head + R"("c","logprobs":null,"finish_reason":"stop","stop_reason":null}]})" + "\n\n",
          "data: [DONE]\n\n"));
}

TEST(StreamedAnswer, SendsAChatsChunksWithTheRoleFirstAndUsageLast) {
  GenerateEvent last = Last("", FinishReason::kLength, 1);
  const Sent sent = Streamed({.chat = true, .include_usage = true, .n = 2}, {Text("a", 1), last});
  const std::string head =
      R"(data: {"id":"id-1","object":"chat.completion.chunk","created":1700000000,"model":"m",)"
      R"("choices":[)";
  const auto chunk = [&](int index, const std::string& delta, const std::string& finish) {
    return head + R"({"index":)" + std::to_string(index) + R"(,"delta":)" + delta +
           R"(,"logprobs":null,"finish_reason":)" + finish + R"(}],"usage":null})" + "\n\n";
  };
  EXPECT_THAT(
      sent.pieces,
      testing::ElementsAre(
          chunk(0, R"({"role":"assistant","content":""})", "null") +
              chunk(1, R"({"role":"assistant","content":""})", "null"),
          chunk(1, R"({"content":"a"})", "null"), chunk(1, "{}", R"("length","stop_reason":null)"),
          head + R"(],"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7,)" +
              R"("prompt_tokens_details":{"cached_tokens":1}}})" + "\n\ndata: [DONE]\n\n"));
}

TEST(StreamedAnswer, CountsTokensInEachChunkWhereThatIsWanted) {
  const Sent sent = Streamed({.include_usage = true, .running_usage = true}, {Text("a"), Text("b")},
                             {{1, 2, 3}, {}});
  EXPECT_THAT(sent.pieces[1], HasSubstr(R"("usage":{"prompt_tokens":3,"completion_tokens":1)"));
  EXPECT_THAT(sent.pieces[2], HasSubstr(R"("usage":{"prompt_tokens":3,"completion_tokens":2)"));
}

TEST(StreamedAnswer, CountsTextOffsetsThroughTheChunks) {
  GenerateEvent one = Text("é"), two = Text("b");
  one.logprobs = {Position("é", -0.5f)};
  two.logprobs = {Position("b2", -1)};
  const PromptInfo info = {{5, 6}, {Position("q", -2)}};
  const Sent sent = Streamed({.echo = true, .logprobs = 2}, {one, two}, info, {"pq", "p"});
  EXPECT_THAT(sent.pieces[0], HasSubstr(R"("text":"pq","logprobs":{"tokens":["p","q"])"));
  EXPECT_THAT(sent.pieces[0], HasSubstr(R"("text_offset":[0,1]})"));
  EXPECT_THAT(sent.pieces[1], HasSubstr(R"("text_offset":[2]})"));
  EXPECT_THAT(sent.pieces[2], HasSubstr(R"("text_offset":[3]})"));
}

TEST(StreamedAnswer, SendsLogprobsOfTokensWithoutText) {
  GenerateEvent event = Text("");
  event.logprobs = {Position("\xe2", -0.5f)};
  const Sent sent = Streamed({.chat = true, .logprobs = 0}, {event});
  EXPECT_THAT(sent.pieces[1], HasSubstr(R"("delta":{"content":""},"logprobs":{"content":[{)"));
  EXPECT_THAT(sent.pieces[1], HasSubstr(R"("bytes":[226])"));
}

TEST(StreamedAnswer, EveryEventIsValidJson) {
  GenerateEvent event = Text("\x01\xff\"\\\n</script>");
  event.logprobs = {Position("\xff", NAN)};
  for (const bool chat : {false, true}) {
    AnswerOptions options;
    options.chat = chat;
    options.logprobs = 1;
    options.include_usage = true;
    for (const std::string& piece : Streamed(options, {event}).pieces) {
      if (piece.empty()) continue;
      const std::string data = piece.substr(6, piece.find("\n\n") - 6);
      EXPECT_TRUE(Json::accept(data)) << data;
    }
  }
}

// -- Errors -------------------------------------------------------------------

TEST(ErrorBody, NamesTheFieldAndTheKind) {
  EXPECT_EQ(ErrorBody(FieldError("n", "must be 1")),
            R"({"error":{"message":"n: must be 1","type":"invalid_request_error","param":"n",)"
            R"("code":null}})");
  EXPECT_EQ(ErrorBody(absl::NotFoundError("no \"x\"\xff")),
            R"({"error":{"message":"no \"x\"�","type":"invalid_request_error","param":null,)"
            R"("code":"model_not_found"}})");
  EXPECT_EQ(ErrorEvent(absl::InternalError("x")),
            "data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"param\":null,"
            "\"code\":null}}\n\n");
}

}  // namespace
}  // namespace hostler
