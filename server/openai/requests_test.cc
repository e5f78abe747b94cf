#include "server/openai/requests.h"

#include "engine/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

// The body {"prompt":"p", FIELDS}, or {"messages":[…], FIELDS}.
std::string Completion(const std::string& fields) { return R"({"prompt":"p",)" + fields + "}"; }
std::string Chat(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}";
}

ApiRequest Parsed(const absl::StatusOr<ApiRequest>& request) {
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *request : ApiRequest{std::vector<GenerateRequest>(1), {}};
}

GenerateRequest First(const absl::StatusOr<ApiRequest>& request) {
  return Parsed(request).requests.front();
}

ChatPrompt ChatOf(const std::string& body) {
  const GenerateRequest request = First(ParseChatRequest(body));
  const auto* prompt = std::get_if<ChatPrompt>(&request.prompt);
  EXPECT_NE(prompt, nullptr);
  return prompt == nullptr ? ChatPrompt() : *prompt;
}

struct BadField {
  std::string fields;
  std::string field;    // that is named
  std::string message;  // a part of it
};

void ExpectRefused(absl::StatusOr<ApiRequest> (*parse)(std::string_view), const std::string& body,
                   const BadField& bad) {
  const absl::StatusOr<ApiRequest> request = parse(body);
  ASSERT_FALSE(request.ok()) << body;
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << body;
  EXPECT_EQ(ErrorField(request.status()), bad.field) << body;
  EXPECT_THAT(std::string(request.status().message()), HasSubstr(bad.message)) << body;
}

// -- Both ---------------------------------------------------------------------

const BadField kBadCommonFields[] = {
    {R"("model":7)", "model", "must be a string, not a number"},
    {R"("temperature":"1")", "temperature", "must be a number, not a string"},
    {R"("temperature":true)", "temperature", "not a boolean"},
    {R"("temperature":-0.1)", "temperature", "between 0 and 2"},
    {R"("temperature":2.1)", "temperature", "between 0 and 2"},
    {R"("top_p":0)", "top_p", "greater than 0 and at most 1"},
    {R"("top_p":1.01)", "top_p", "greater than 0 and at most 1"},
    {R"("min_p":-1)", "min_p", "between 0 and 1"},
    {R"("top_k":-2)", "top_k", "must be between -1"},
    {R"("top_k":1.5)", "top_k", "must be an integer, not 1.5"},
    {R"("top_k":99999999999)", "top_k", "must be between"},
    {R"("repetition_penalty":0)", "repetition_penalty", "must be greater than 0"},
    {R"("presence_penalty":2.5)", "presence_penalty", "between -2 and 2"},
    {R"("frequency_penalty":-2.5)", "frequency_penalty", "between -2 and 2"},
    {R"("seed":1e300)", "seed", "must be between"},
    {R"("seed":18446744073709551615)", "seed", "must be between"},
    {R"("n":0)", "n", "between 1 and 128"},
    {R"("n":129)", "n", "between 1 and 128"},
    {R"("max_tokens":0)", "max_tokens", "between 1 and"},
    {R"("max_tokens":-5)", "max_tokens", "between 1 and"},
    {R"("max_tokens":[1])", "max_tokens", "must be an integer, not an array"},
    {R"("min_tokens":-1)", "min_tokens", "must be between 0"},
    {R"("min_tokens":9,"max_tokens":8)", "min_tokens", "larger than max_tokens"},
    {R"("stop":7)", "stop", "a string or an array of strings"},
    {R"("stop":"")", "stop", "must not be empty"},
    {R"("stop":["a",""])", "stop[1]", "must not be empty"},
    {R"("stop":["a",1])", "stop[1]", "must be a string, not a number"},
    {R"("stop":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7])", "stop", "at most 16"},
    {R"("stop_token_ids":[1,-2])", "stop_token_ids[1]", "between 0"},
    {R"("stop_token_ids":"a")", "stop_token_ids", "array of token ids"},
    {R"("logit_bias":[1])", "logit_bias", "must be an object"},
    {R"("logit_bias":{"x":1})", "logit_bias", "keys must be token ids"},
    {R"("logit_bias":{"-1":1})", "logit_bias", "keys must be token ids"},
    {R"("logit_bias":{"99999999999":1})", "logit_bias", "keys must be token ids"},
    {R"("logit_bias":{"5":101})", "logit_bias.5", "between -100 and 100"},
    {R"("logit_bias":{"5":"1"})", "logit_bias.5", "must be a number"},
    {R"("cache_salt":1)", "cache_salt", "must be a string"},
    {R"("ignore_eos":1)", "ignore_eos", "must be a boolean, not a number"},
    {R"("stream":"yes")", "stream", "must be a boolean, not a string"},
    {R"("stream_options":{"include_usage":true})", "stream_options", "needs stream"},
    {R"("stream":true,"stream_options":1)", "stream_options", "must be an object"},
    {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage",
     "must be a boolean"},
    {R"("stream":true,"stream_options":{"continuous_usage_stats":1})",
     "stream_options.continuous_usage_stats", "must be a boolean"},
    {R"("prompt_logprobs":21)", "prompt_logprobs", "between 0 and 20"},
    {R"("prompt_logprobs":1,"stream":true)", "prompt_logprobs", "stream"},
    {R"("response_format":{"type":"json_schema"})", "response_format", "only"},
    {R"("response_format":{"type":"json_object"})", "response_format", "only"},
    {R"("guided_json":{})", "guided_json", "not supported"},
    {R"("use_beam_search":true)", "use_beam_search", "not supported"},
    {R"("allowed_token_ids":[1])", "allowed_token_ids", "not supported"},
    {R"("bad_words":["x"])", "bad_words", "not supported"},
    {R"("truncate_prompt_tokens":5)", "truncate_prompt_tokens", "not supported"},
};

TEST(Requests, NameTheBadFieldInBothApis) {
  for (const BadField& bad : kBadCommonFields) {
    ExpectRefused(ParseCompletionRequest, Completion(bad.fields), bad);
    ExpectRefused(ParseChatRequest, Chat(bad.fields), bad);
  }
}

TEST(Requests, ReadEveryCommonField) {
  const std::string fields = R"(
      "model":"m", "temperature":0, "top_p":0.5, "top_k":40, "min_p":0.05,
      "repetition_penalty":1.1, "presence_penalty":-2, "frequency_penalty":2, "seed":-7,
      "logit_bias":{"5":-100,"6":1.5}, "n":2, "max_tokens":9, "min_tokens":3, "stop":["a","b"],
      "stop_token_ids":[1,2], "ignore_eos":true, "include_stop_str_in_output":true,
      "skip_special_tokens":false, "stream":true, "stream_options":{"include_usage":true},
      "user":"u", "cache_salt":"tenant")";
  for (const ApiRequest& api : {Parsed(ParseCompletionRequest(Completion(fields))),
                                Parsed(ParseChatRequest(Chat(fields)))}) {
    const GenerateRequest& request = api.requests.front();
    EXPECT_EQ(request.model, "m");
    EXPECT_EQ(request.sampling.temperature, 0);
    EXPECT_EQ(request.sampling.top_p, 0.5);
    EXPECT_EQ(request.sampling.top_k, 40);
    EXPECT_EQ(request.sampling.min_p, 0.05);
    EXPECT_EQ(request.sampling.repetition_penalty, 1.1);
    EXPECT_EQ(request.sampling.presence_penalty, -2);
    EXPECT_EQ(request.sampling.frequency_penalty, 2);
    EXPECT_EQ(request.sampling.seed, uint64_t(-7));
    EXPECT_THAT(request.sampling.logit_bias, ElementsAre(Pair(5, -100.f), Pair(6, 1.5f)));
    EXPECT_EQ(request.n, 2);
    EXPECT_EQ(request.max_tokens, 9);
    EXPECT_EQ(request.min_tokens, 3);
    EXPECT_THAT(request.stop, ElementsAre("a", "b"));
    EXPECT_THAT(request.stop_token_ids, ElementsAre(1, 2));
    EXPECT_TRUE(request.ignore_eos);
    EXPECT_TRUE(request.include_stop_str);
    EXPECT_FALSE(request.skip_special_tokens);
    EXPECT_EQ(request.cache_salt, "tenant");
    EXPECT_EQ(api.answer.n, 2);
    EXPECT_TRUE(api.answer.stream);
    EXPECT_TRUE(api.answer.include_usage);
  }
}

TEST(Requests, TakeAnAbsentOrNullFieldAsNotGiven) {
  const GenerateRequest request = First(ParseCompletionRequest(Completion(
      R"("temperature":null,"stop":null,"n":null,"seed":null,"logit_bias":null,"suffix":null,
         "response_format":null,"stream_options":null)")));
  EXPECT_FALSE(request.sampling.temperature.has_value());
  EXPECT_FALSE(request.sampling.top_k.has_value());
  EXPECT_FALSE(request.sampling.seed.has_value());
  EXPECT_EQ(request.n, 1);
  EXPECT_TRUE(request.model.empty());
  EXPECT_FALSE(request.logprobs.has_value());
}

TEST(Requests, IgnoreUnknownFieldsAndHarmlessOnes) {
  Parsed(ParseChatRequest(Chat(
      R"("user":"u","store":true,"foo":{"bar":[1]},"tool_choice":"auto","modalities":["text"],
         "response_format":{"type":"text"},"parallel_tool_calls":true,"service_tier":"auto")")));
}

TEST(Requests, TakeVllmsWaysToWriteOff) {
  const GenerateRequest request =
      First(ParseCompletionRequest(Completion(R"("top_k":-1,"seed":-1,"max_tokens":5.0)")));
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_FALSE(request.sampling.seed.has_value());
  EXPECT_EQ(request.max_tokens, 5);
}

TEST(Requests, RefuseABodyThatIsNoObject) {
  for (const char* body : {"[]", "7", "\"x\"", "null", "", "{", "\xff"}) {
    EXPECT_FALSE(ParseCompletionRequest(body).ok()) << body;
    EXPECT_FALSE(ParseChatRequest(body).ok()) << body;
    EXPECT_FALSE(ParseTokenizeRequest(body).ok()) << body;
    EXPECT_FALSE(ParseDetokenizeRequest(body).ok()) << body;
  }
}

// -- Completions --------------------------------------------------------------

TEST(CompletionRequest, NamesTheBadField) {
  const BadField bad_fields[] = {
      {R"("suffix":"x")", "suffix", "not supported"},
      {R"("best_of":3)", "best_of", "not supported"},
      {R"("n":3,"best_of":2)", "best_of", "smaller than n"},
      {R"("logprobs":true)", "logprobs", "must be an integer, not a boolean"},
      {R"("logprobs":21)", "logprobs", "between 0 and 20"},
      {R"("echo":"x")", "echo", "must be a boolean"},
      {R"("prompt_embeds":"x")", "prompt_embeds", "not supported"},
  };
  for (const BadField& bad : bad_fields) {
    ExpectRefused(ParseCompletionRequest, Completion(bad.fields), bad);
  }
}

TEST(CompletionRequest, NamesTheBadPrompt) {
  const BadField bad_prompts[] = {
      {R"({})", "prompt", "is required"},
      {R"({"prompt":null})", "prompt", "is required"},
      {R"({"prompt":7})", "prompt", "must be a string, an array"},
      {R"({"prompt":{}})", "prompt", "must be a string, an array"},
      {R"({"prompt":[]})", "prompt", "must not be empty"},
      {R"({"prompt":[{}]})", "prompt", "must be a string, an array"},
      {R"({"prompt":[[]]})", "prompt[0]", "must not be empty"},
      {R"({"prompt":["a",7]})", "prompt[1]", "must be a string like the first"},
      {R"({"prompt":[1,"a"]})", "prompt[1]", "must be an integer"},
      {R"({"prompt":[1,-1]})", "prompt[1]", "must be between 0"},
      {R"({"prompt":[[1],[2,3.5]]})", "prompt[1][1]", "must be an integer, not 3.5"},
  };
  for (const BadField& bad : bad_prompts) {
    ExpectRefused(ParseCompletionRequest, bad.fields, bad);
  }
}

TEST(CompletionRequest, BoundsTheNumberOfPrompts) {
  std::string prompts = "\"a\"";
  for (int i = 0; i < 2048; ++i) prompts += ",\"a\"";
  ExpectRefused(ParseCompletionRequest, "{\"prompt\":[" + prompts + "]}",
                {"", "prompt", "at most 2048"});
}

TEST(CompletionRequest, ReadsEveryFormOfPrompt) {
  const auto prompts = [](const std::string& json) {
    return Parsed(ParseCompletionRequest("{\"prompt\":" + json + "}")).requests;
  };
  EXPECT_EQ(std::get<std::string>(prompts("\"a\"").at(0).prompt), "a");
  EXPECT_EQ(std::get<std::string>(prompts("[\"a\",\"b\"]").at(1).prompt), "b");
  EXPECT_THAT(std::get<TokenPrompt>(prompts("[1,2]").at(0).prompt), ElementsAre(1, 2));
  EXPECT_THAT(std::get<TokenPrompt>(prompts("[[1],[2,3]]").at(1).prompt), ElementsAre(2, 3));
}

TEST(CompletionRequest, HasOpenAisLimitUnlessNullIsGiven) {
  EXPECT_EQ(First(ParseCompletionRequest(R"({"prompt":"p"})")).max_tokens, 16);
  EXPECT_FALSE(
      First(ParseCompletionRequest(Completion(R"("max_tokens":null)"))).max_tokens.has_value());
}

TEST(CompletionRequest, EchoWithLogprobsAsksForThoseOfThePrompt) {
  const ApiRequest api =
      Parsed(ParseCompletionRequest(Completion(R"("echo":true,"logprobs":2,"max_tokens":0)")));
  EXPECT_EQ(api.requests[0].logprobs, 2);
  EXPECT_EQ(api.requests[0].prompt_logprobs, 2);
  EXPECT_EQ(api.requests[0].max_tokens, 1);
  EXPECT_TRUE(api.answer.echo_only);
  EXPECT_FALSE(api.answer.prompt_logprobs.has_value());
}

// -- Chat ---------------------------------------------------------------------

TEST(ChatRequest, NamesTheBadField) {
  const BadField bad_fields[] = {
      {R"("max_completion_tokens":0)", "max_completion_tokens", "between 1"},
      {R"("logprobs":1)", "logprobs", "must be a boolean"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "between 0 and 20"},
      {R"("top_logprobs":2)", "top_logprobs", "needs logprobs"},
      {R"("tool_choice":"required")", "tool_choice", "only"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice", "only"},
      {R"("function_call":{"name":"f"})", "function_call", "not supported"},
      {R"("functions":[{"name":"f"}])", "functions", "not supported"},
      {R"("audio":{"voice":"x"})", "audio", "not supported"},
      {R"("modalities":["text","audio"])", "modalities", "only"},
      {R"("chat_template":"{{ x }}")", "chat_template", "own template"},
      {R"("continue_final_message":true)", "continue_final_message", "not supported"},
      {R"("echo":true)", "echo", "not supported"},
      {R"("tools":{})", "tools", "must be an array"},
      {R"("tools":[7])", "tools[0]", "must be an object"},
      {R"("tools":[{"type":"x"}])", "tools[0].type", "must be \"function\""},
      {R"("tools":[{"type":"function"}])", "tools[0].function", "must be an object"},
      {R"("tools":[{"type":"function","function":{}}])", "tools[0].function.name", "is required"},
      {R"("documents":["x"])", "documents[0]", "must be an object"},
      {R"("chat_template_kwargs":[])", "chat_template_kwargs", "must be an object"},
      {R"("chat_template_kwargs":{"messages":[]})", "chat_template_kwargs.messages", "itself"},
      {R"("add_generation_prompt":0)", "add_generation_prompt", "must be a boolean"},
  };
  for (const BadField& bad : bad_fields) ExpectRefused(ParseChatRequest, Chat(bad.fields), bad);
}

TEST(ChatRequest, NamesTheBadMessage) {
  const BadField bad_messages[] = {
      {R"({})", "messages", "is required"},
      {R"({"messages":"hi"})", "messages", "must be an array"},
      {R"({"messages":[]})", "messages", "must not be empty"},
      {R"({"messages":["hi"]})", "messages[0]", "must be an object"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role", "is required"},
      {R"({"messages":[{"role":7,"content":"x"}]})", "messages[0].role", "must be a string"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content", "is required"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":7}]})",
       "messages[1].content", "a string or an array of text parts"},
      {R"({"messages":[{"role":"user","content":["x"]}]})", "messages[0].content[0]",
       "must be an object"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
       "messages[0].content[0].text", "is required"},
      {R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},
          {"type":"image_url","image_url":{"url":"x"}}]}]})",
       "messages[0].content[1].type", "only text"},
      {R"({"messages":[{"role":"user","content":"x","name":7}]})", "messages[0].name",
       "must be a string"},
      {R"({"messages":[{"role":"assistant","tool_calls":7}]})", "messages[0].tool_calls",
       "must be an array"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{}]}]})",
       "messages[0].tool_calls[0].function", "is required"},
      {R"({"messages":[{"role":"assistant",
          "tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]})",
       "messages[0].tool_calls[0].function.arguments", "must be a JSON object"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":7}}]}]})",
       "messages[0].tool_calls[0].function.name", "must be a string"},
  };
  for (const BadField& bad : bad_messages) ExpectRefused(ParseChatRequest, bad.fields, bad);
}

TEST(ChatRequest, JoinsTextPartsAndKeepsOtherFields) {
  const ChatPrompt prompt = ChatOf(R"({"messages":[
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"n"},
      {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
          "function":{"name":"f","arguments":"{\"x\":1}"}}]},
      {"role":"tool","tool_call_id":"c","content":"7"}]})");
  EXPECT_EQ(prompt.messages.dump(),
            R"([{"role":"user","content":"a\nb","name":"n"},)"
            R"({"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function",)"
            R"("function":{"name":"f","arguments":{"x":1}}}]},)"
            R"({"role":"tool","tool_call_id":"c","content":"7"}])");
}

TEST(ChatRequest, PassesTheTemplatesInputsOn) {
  const std::string tools = R"([{"type":"function","function":{"name":"f"}}])";
  const ChatPrompt prompt = ChatOf(
      Chat(R"("tools":)" + tools + R"(,"documents":[{"text":"d"}],"add_generation_prompt":false,
         "chat_template_kwargs":{"enable_thinking":false},"reasoning_effort":"low")"));
  EXPECT_EQ(prompt.tools.dump(), tools);
  EXPECT_EQ(prompt.documents.dump(), R"([{"text":"d"}])");
  EXPECT_EQ(prompt.variables.dump(), R"({"enable_thinking":false,"reasoning_effort":"low"})");
  EXPECT_FALSE(prompt.add_generation_prompt);
  // Tools that must not be called are not shown.
  EXPECT_TRUE(ChatOf(Chat(R"("tool_choice":"none","tools":)" + tools)).tools.is_null());
}

TEST(ChatRequest, ReadsLimitsAndLogprobs) {
  const ApiRequest api = Parsed(ParseChatRequest(
      Chat(R"("max_tokens":5,"max_completion_tokens":7,"logprobs":true,"top_logprobs":3)")));
  EXPECT_EQ(api.requests[0].max_tokens, 7);
  EXPECT_EQ(api.requests[0].logprobs, 3);
  EXPECT_TRUE(api.answer.chat);
  EXPECT_FALSE(First(ParseChatRequest(Chat(R"("n":1)"))).max_tokens.has_value());
}

// -- Tokens -------------------------------------------------------------------

TEST(TokenizeRequest, TakesATextOrMessages) {
  const auto text = ParseTokenizeRequest(R"({"prompt":"a","add_special_tokens":false})");
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(std::get<std::string>(text->prompt), "a");
  EXPECT_FALSE(text->add_special_tokens);
  const auto chat = ParseTokenizeRequest(R"({"messages":[{"role":"user","content":"a"}]})");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(std::get<ChatPrompt>(chat->prompt).messages.size(), 1);
  EXPECT_EQ(ErrorField(ParseTokenizeRequest("{}").status()), "prompt");
  EXPECT_EQ(ErrorField(ParseTokenizeRequest(R"({"prompt":["a"]})").status()), "prompt");
}

TEST(DetokenizeRequest, TakesTokens) {
  const auto request = ParseDetokenizeRequest(R"({"model":"m","tokens":[1,2]})");
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->model, "m");
  EXPECT_THAT(request->tokens, ElementsAre(1, 2));
  EXPECT_EQ(ErrorField(ParseDetokenizeRequest("{}").status()), "tokens");
  EXPECT_EQ(ErrorField(ParseDetokenizeRequest(R"({"tokens":[1,"a"]})").status()), "tokens[1]");
}

TEST(UpstreamRequestTest, ReadsWhatRoutingNeedsAndLetsTheRestBe) {
  const auto chat = ParseChatForUpstream(
      R"({"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}],"n":3,)"
      R"("stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":7,)"
      R"("temperature":99,"response_format":{},"tools":[1]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->requests[0].model, "m");
  EXPECT_EQ(chat->requests[0].n, 3);
  EXPECT_EQ(chat->requests[0].max_tokens, 7);
  EXPECT_TRUE(chat->answer.stream);
  EXPECT_TRUE(chat->answer.include_usage);
  EXPECT_EQ(std::get<ChatPrompt>(chat->requests[0].prompt).messages.size(), 1);
  for (const char* odd : {R"({"messages":3,"n":"x","stream":1,"max_tokens":-1})", "{}"}) {
    const auto parsed = ParseChatForUpstream(odd);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->requests[0].n, 1);
    EXPECT_FALSE(parsed->answer.stream);
    EXPECT_FALSE(parsed->requests[0].max_tokens.has_value());
  }
  EXPECT_EQ(ErrorField(ParseChatForUpstream(R"({"model":3})").status()), "model");
  EXPECT_FALSE(ParseChatForUpstream("[]").ok());
}

TEST(UpstreamRequestTest, CountsTheChoicesOfSeveralPrompts) {
  const auto several = ParseCompletionForUpstream(R"({"prompt":["a","b"],"n":2})");
  ASSERT_TRUE(several.ok());
  ASSERT_EQ(several->requests.size(), 1);
  EXPECT_EQ(several->requests[0].n, 4);
  EXPECT_EQ(std::get<std::string>(several->requests[0].prompt), "a\nb\n");
  const auto tokens = ParseCompletionForUpstream(R"({"prompt":[5,6]})");
  EXPECT_EQ(std::get<TokenPrompt>(tokens->requests[0].prompt), (TokenPrompt{5, 6}));
  EXPECT_EQ(ParseCompletionForUpstream(R"({"prompt":[[5],[6]]})")->requests[0].n, 2);
  EXPECT_TRUE(ParseCompletionForUpstream(R"({"prompt":[1,"x"]})").ok());
  EXPECT_TRUE(ParseCompletionForUpstream("{}").ok());
}

}  // namespace
}  // namespace hostler
