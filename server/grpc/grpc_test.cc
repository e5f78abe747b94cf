#include <thread>

#include "engine/base/json.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "proto/hostler.grpc.pb.h"
#include "router/route_wish.h"
#include "router/test_engine.h"
#include "server/grpc/convert.h"
#include "server/grpc/grpc_server.h"
#include "server/status_codes.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class QuietLog : public RequestLog {
 public:
  void Write(const RequestRecord&) override {}
};

GenerateEvent Text(int index, const std::string& text, std::optional<FinishReason> finish = {}) {
  GenerateEvent event;
  event.index = index;
  event.text = text;
  event.token_ids.assign(text.begin(), text.end());
  event.finish_reason = finish;
  return event;
}

class GrpcServerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto engine = std::make_unique<TestEngine>();
    engine_ = engine.get();
    engine_->info.architecture = "test_moe";
    ASSERT_TRUE(router_.AddTarget(NewLocalTarget("tiny", {1, 1}, std::move(engine))).ok());
    ASSERT_TRUE(router_.AddVirtualModel("auto", NewStaticPolicy({})).ok());
    metrics_ = std::make_unique<Metrics>(&router_);
    service_ = std::make_unique<Service>(&router_, metrics_.get(), &log_);
    GrpcServer::Options options;
    options.max_message_bytes = 64 << 10;
    auto server = GrpcServer::Start(options, service_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Hostler::NewStub(channel_);
  }

  void TearDown() override {
    if (server_ != nullptr) server_->Stop(0);
  }

  static v1::GenerateRequest Request(const std::string& text) {
    v1::GenerateRequest request;
    request.set_model("tiny");
    request.set_text(text);
    return request;
  }

  // Every message of a call, and how it ended.
  grpc::Status ReadAll(const v1::GenerateRequest& request,
                       std::vector<v1::GenerateResponse>* responses) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) responses->push_back(response);
    return reader->Finish();
  }

  grpc::Status Fail(const v1::GenerateRequest& request) {
    std::vector<v1::GenerateResponse> responses;
    const grpc::Status status = ReadAll(request, &responses);
    EXPECT_TRUE(responses.empty());
    return status;
  }

  Router router_;
  TestEngine* engine_ = nullptr;
  QuietLog log_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Hostler::Stub> stub_;
};

TEST_F(GrpcServerTest, StreamsStartedDeltasFinishedAndDone) {
  engine_->on_submit = [](const GenerateRequest& request, GenerateStream& stream, Usage usage) {
    EXPECT_EQ(request.max_tokens, 5);
    stream.Push(Text(0, "Hel"));
    GenerateEvent last = Text(0, "lo", FinishReason::kStop);
    last.stop_reason = "END";
    stream.Push(std::move(last));
    usage.completion_tokens = 5;
    stream.End(absl::OkStatus(), usage, {.total_ms = 12});
  };
  v1::GenerateRequest request = Request("abc");
  request.set_model("auto");
  request.set_max_tokens(5);
  std::vector<v1::GenerateResponse> responses;
  const grpc::Status status = ReadAll(request, &responses);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(responses.size(), 5u);
  const v1::Started& started = responses[0].started();
  EXPECT_THAT(started.id(), StartsWith("gen-"));
  EXPECT_EQ(started.model(), "auto");
  EXPECT_EQ(started.target(), "tiny");
  EXPECT_THAT(started.route_reason(), StartsWith("static: "));
  EXPECT_EQ(started.prompt_tokens(), 3);
  EXPECT_EQ(responses[1].delta().text(), "Hel");
  EXPECT_THAT(responses[1].delta().token_ids(), ElementsAre('H', 'e', 'l'));
  EXPECT_EQ(responses[2].delta().text(), "lo");
  EXPECT_EQ(responses[3].finished().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(responses[3].finished().stop_reason(), "END");
  EXPECT_EQ(responses[4].done().usage().completion_tokens(), 5);
  EXPECT_EQ(responses[4].done().timings().total_ms(), 12);
}

TEST_F(GrpcServerTest, TellsWhyAnAnswerWasRoutedAsItWas) {
  engine_->on_submit = [](const GenerateRequest& request, GenerateStream& stream, Usage usage) {
    ASSERT_NE(request.route, nullptr);
    EXPECT_EQ(request.route->min_quality, 0.25);
    EXPECT_EQ(request.route->deadline_s, 2);
    EXPECT_FALSE(request.route->max_cost.has_value());
    EXPECT_NE(request.route->payer, 0u);
    stream.Push(Text(0, "a", FinishReason::kStop));
    usage.completion_tokens = 1;
    stream.End(absl::OkStatus(), usage, {});
  };
  v1::GenerateRequest request = Request("abc");
  request.set_model("auto");
  request.set_explain(true);
  request.set_user("somebody");
  request.mutable_hostler()->set_min_quality(0.25);
  request.mutable_hostler()->set_deadline_ms(2000);
  std::vector<v1::GenerateResponse> responses;
  ASSERT_TRUE(ReadAll(request, &responses).ok());
  const Json told = Json::parse(responses.back().done().explanation_json());
  EXPECT_EQ(told["model"], "tiny");
  EXPECT_EQ(told["virtual_model"], "auto");
  EXPECT_EQ(told["outcome"]["completion_tokens"], 1);
  EXPECT_EQ(told["wish"]["min_quality"], 0.25);

  engine_->on_submit = [](const GenerateRequest&, GenerateStream& stream, Usage usage) {
    stream.End(absl::OkStatus(), usage, {});
  };
  responses.clear();
  ASSERT_TRUE(ReadAll(Request("abc"), &responses).ok());
  EXPECT_EQ(responses.back().done().explanation_json(), "") << "nobody asked";
  request.mutable_hostler()->set_min_quality(2);
  EXPECT_THAT(Fail(request).error_message(), HasSubstr("min_quality"));
}

TEST_F(GrpcServerTest, StreamsWhileTheEngineIsStillAtWork) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request("abc"));
  const auto stream = engine_->WaitForRequest(0).second;
  v1::GenerateResponse response;
  stream->Push(Text(0, "a"));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_started());
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "a");
  stream->Push(Text(0, "b"));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "b");
  stream->End(absl::OkStatus(), {}, {});
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_done());
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, ACancelledCallCancelsItsRequest) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request("abc"));
  const auto stream = engine_->WaitForRequest(0).second;
  stream->Push(Text(0, "a"));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // Stop waits until the call is over on this side as well.
  server_->Stop(10'000);
  EXPECT_TRUE(stream->cancelled());
}

TEST_F(GrpcServerTest, AnExpiredDeadlineCancelsTheRequest) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  const auto reader = stub_->Generate(&context, Request("abc"));
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GrpcServerTest, ASlowReaderHoldsUpOnlyItsOwnRequest) {
  grpc::ClientContext context;
  const auto slow = stub_->Generate(&context, Request("slow"));
  const auto stream = engine_->WaitForRequest(0).second;
  // Nobody reads: once the transport's buffers are full so is the queue.
  const std::string big(16 << 10, 'x');
  int pushed = 0;
  for (; pushed < 4000 && !stream->full(); ++pushed) stream->Push(Text(0, big));
  ASSERT_TRUE(stream->full()) << "messages were taken faster than the client reads";
  engine_->on_submit = [](const GenerateRequest&, GenerateStream& other, Usage usage) {
    other.End(absl::OkStatus(), usage, {});
  };
  std::vector<v1::GenerateResponse> responses;
  EXPECT_TRUE(ReadAll(Request("quick"), &responses).ok());
  stream->End(absl::OkStatus(), {}, {});
  v1::GenerateResponse response;
  int deltas = 0;
  while (slow->Read(&response)) deltas += response.has_delta();
  EXPECT_EQ(deltas, pushed);
  EXPECT_TRUE(slow->Finish().ok());
}

TEST_F(GrpcServerTest, ManyCallsAtOnceEachGetTheirOwnAnswer) {
  std::vector<std::thread> producers;
  std::mutex mutex;
  engine_->on_submit = [&](const GenerateRequest& request, GenerateStream& stream, Usage usage) {
    std::lock_guard lock(mutex);
    producers.emplace_back([&stream, usage, text = std::get<std::string>(request.prompt)] {
      for (char c : text) stream.Push(Text(0, std::string(1, c)));
      stream.End(absl::OkStatus(), usage, {});
    });
  };
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([this, i] {
      const std::string prompt(50 + i, static_cast<char>('a' + i));
      std::vector<v1::GenerateResponse> responses;
      EXPECT_TRUE(ReadAll(Request(prompt), &responses).ok());
      std::string text;
      for (const auto& response : responses) text += response.delta().text();
      EXPECT_EQ(text, prompt);
    });
  }
  for (std::thread& client : clients) client.join();
  for (std::thread& producer : producers) producer.join();
}

TEST_F(GrpcServerTest, AFailureKeepsItsStatusAndComesAfterTheText) {
  engine_->on_submit = [](const GenerateRequest&, GenerateStream& stream, Usage usage) {
    stream.Push(Text(0, "a"));
    stream.End(absl::DataLossError("the disk"), usage, {});
  };
  std::vector<v1::GenerateResponse> responses;
  const grpc::Status status = ReadAll(Request("abc"), &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "the disk");
  ASSERT_EQ(responses.size(), 2u);
  EXPECT_EQ(responses[1].delta().text(), "a");
}

TEST_F(GrpcServerTest, BadRequestsNameTheField) {
  v1::GenerateRequest request = Request("abc");
  request.mutable_sampling()->set_temperature(-1);
  grpc::Status status = Fail(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("temperature: "));
  EXPECT_THAT(Fail(v1::GenerateRequest()).error_message(), StartsWith("prompt: "));
  request = Request("abc");
  request.set_model("none");
  EXPECT_EQ(Fail(request).error_code(), grpc::StatusCode::NOT_FOUND);
  engine_->refuse = absl::ResourceExhaustedError("the queue is full");
  EXPECT_EQ(Fail(Request("abc")).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcServerTest, RequestsAreLimitedInSize) {
  EXPECT_EQ(Fail(Request(std::string(65 << 10, 'x'))).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcServerTest, TokenizesAndListsModels) {
  grpc::ClientContext tokenize_context, list_context, bad_context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&tokenize_context, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre('a', 'b'));
  EXPECT_EQ(tokens.max_context(), 4096);
  tokenize.clear_prompt();
  EXPECT_THAT(stub_->Tokenize(&bad_context, tokenize, &tokens).error_message(),
              StartsWith("prompt: "));
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&list_context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 2);
  EXPECT_EQ(models.models(0).id(), "tiny");
  EXPECT_EQ(models.models(0).architecture(), "test_moe");
  EXPECT_EQ(models.models(1).id(), "auto");
  EXPECT_TRUE(models.models(1).is_virtual());
}

TEST_F(GrpcServerTest, StoppingCutsOffWhatOutlivesTheDeadline) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request("abc"));
  const auto stream = engine_->WaitForRequest(0).second;
  server_->Stop(0);
  EXPECT_TRUE(stream->cancelled());
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, APortInUseIsAClearError) {
  GrpcServer::Options options;
  options.port = server_->port();
  const auto second = GrpcServer::Start(options, service_.get());
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(std::to_string(options.port)));
}

// The answer to one message, as bytes: health and reflection come with gRPC,
// their stubs do not.
std::string CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& message) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  if (!wait()) return "";
  const grpc::Slice slice(message);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), {}, nullptr);
  if (!wait()) return "";
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  if (!wait()) return "";
  grpc::Slice bytes;
  if (!answer.DumpToSingleSlice(&bytes).ok()) return "";
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  return std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
}

TEST_F(GrpcServerTest, HealthIsServedAndFollowsTheDrain) {
  const char* method = "/grpc.health.v1.Health/Check";
  const std::string named = "\x0a\x12hostler.v1.Hostler";  // service: "hostler.v1.Hostler"
  EXPECT_EQ(CallRaw(channel_, method, ""), "\x08\x01");    // status: SERVING
  EXPECT_EQ(CallRaw(channel_, method, named), "\x08\x01");
  server_->SetNotServing();
  EXPECT_EQ(CallRaw(channel_, method, ""), "\x08\x02");  // status: NOT_SERVING
  EXPECT_EQ(CallRaw(channel_, method, named), "\x08\x02");
}

TEST_F(GrpcServerTest, ReflectionListsTheService) {
  const std::string list_services = std::string("\x3a\x00", 2);
  EXPECT_THAT(CallRaw(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                      list_services),
              HasSubstr("hostler.v1.Hostler"));
}

TEST(ConvertTest, EveryFieldReachesTheRequest) {
  v1::GenerateRequest proto;
  proto.set_model("m");
  for (int id : {1, 2}) proto.mutable_token_ids()->add_ids(id);
  proto.set_add_special_tokens(false);
  v1::SamplingParams* sampling = proto.mutable_sampling();
  sampling->set_temperature(0.5);
  sampling->set_top_k(7);
  sampling->set_top_p(0.9);
  sampling->set_min_p(0.1);
  sampling->set_repetition_penalty(1.1);
  sampling->set_presence_penalty(0.2);
  sampling->set_frequency_penalty(0.3);
  (*sampling->mutable_logit_bias())[5] = -2;
  sampling->set_seed(1ull << 63);
  proto.set_n(3);
  proto.set_max_tokens(10);
  proto.set_min_tokens(2);
  proto.add_stop("END");
  proto.add_stop_token_ids(9);
  proto.set_ignore_eos(true);
  proto.set_include_stop_str(true);
  proto.set_skip_special_tokens(false);
  proto.set_logprobs(4);
  proto.set_prompt_logprobs(0);
  proto.set_cache_salt("tenant");
  const auto request = FromProto(proto);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(std::get<TokenPrompt>(request->prompt), (TokenPrompt{1, 2}));
  EXPECT_FALSE(request->add_special_tokens);
  EXPECT_EQ(request->sampling.temperature, 0.5);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.top_p, 0.9);
  EXPECT_EQ(request->sampling.min_p, 0.1);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.1);
  EXPECT_EQ(request->sampling.presence_penalty, 0.2);
  EXPECT_EQ(request->sampling.frequency_penalty, 0.3);
  EXPECT_THAT(request->sampling.logit_bias, ElementsAre(std::pair<int32_t, float>(5, -2.f)));
  EXPECT_EQ(request->sampling.seed, 1ull << 63);
  EXPECT_EQ(request->n, 3);
  EXPECT_EQ(request->max_tokens, 10);
  EXPECT_EQ(request->min_tokens, 2);
  EXPECT_THAT(request->stop, ElementsAre("END"));
  EXPECT_THAT(request->stop_token_ids, ElementsAre(9));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_TRUE(request->include_stop_str);
  EXPECT_FALSE(request->skip_special_tokens);
  EXPECT_EQ(request->logprobs, 4);
  EXPECT_EQ(request->prompt_logprobs, 0);
  EXPECT_EQ(request->cache_salt, "tenant");
  proto.set_cache_salt(std::string(257, 'x'));
  EXPECT_EQ(ErrorField(FromProto(proto).status()), "cache_salt");
}

TEST(ConvertTest, WhatIsNotSetKeepsTheRequestsDefaults) {
  v1::GenerateRequest proto;
  proto.set_text("x");
  const auto request = FromProto(proto);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_FALSE(request->sampling.temperature.has_value());
  EXPECT_FALSE(request->sampling.seed.has_value());
  EXPECT_FALSE(request->max_tokens.has_value());
  EXPECT_FALSE(request->logprobs.has_value());
  EXPECT_EQ(request->n, 1);
  EXPECT_TRUE(request->add_special_tokens);
  EXPECT_TRUE(request->skip_special_tokens);
}

TEST(ConvertTest, NumbersOutOfRangeNameTheirField) {
  const auto field_of = [](auto change) {
    v1::GenerateRequest proto;
    proto.set_text("x");
    change(&proto);
    return ErrorField(FromProto(proto).status());
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  using Request = v1::GenerateRequest;
  EXPECT_EQ(field_of([](Request* r) { r->set_n(0); }), "n");
  EXPECT_EQ(field_of([](Request* r) { r->set_max_tokens(-1); }), "max_tokens");
  EXPECT_EQ(field_of([](Request* r) { r->set_logprobs(1000); }), "logprobs");
  EXPECT_EQ(field_of([](Request* r) { r->add_stop_token_ids(-1); }), "stop_token_ids[0]");
  EXPECT_EQ(field_of([](Request* r) { r->add_stop(""); }), "stop[0]");
  EXPECT_EQ(field_of([&](Request* r) { r->mutable_sampling()->set_top_p(nan); }), "top_p");
  EXPECT_EQ(field_of([](Request* r) { (*r->mutable_sampling()->mutable_logit_bias())[3] = 1e9f; }),
            "logit_bias.3");
}

TEST(ConvertTest, ChatMessagesComeAsOpenAisJson) {
  v1::GenerateRequest proto;
  v1::Chat* chat = proto.mutable_chat();
  v1::ChatMessage* message = chat->add_messages();
  message->set_role("user");
  message->set_content("hi");
  message->set_extra_json(R"({"role": "system", "mood": "good"})");
  message = chat->add_messages();
  message->set_role("assistant");
  message->set_extra_json(
      R"({"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]})");
  chat->set_tools_json(R"([{"type": "function", "function": {"name": "f"}}])");
  chat->set_variables_json(R"({"enable_thinking": false})");
  chat->set_add_generation_prompt(false);
  const auto request = FromProto(proto);
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& prompt = std::get<ChatPrompt>(request->prompt);
  EXPECT_EQ(prompt.messages[0]["role"], "user") << "the proto's own field wins";
  EXPECT_EQ(prompt.messages[0]["content"], "hi");
  EXPECT_EQ(prompt.messages[0]["mood"], "good");
  EXPECT_EQ(prompt.messages[1]["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(prompt.tools[0]["function"]["name"], "f");
  EXPECT_EQ(prompt.variables["enable_thinking"], false);
  EXPECT_FALSE(prompt.add_generation_prompt);
}

TEST(ConvertTest, BadJsonNamesItsField) {
  v1::GenerateRequest proto;
  v1::ChatMessage* message = proto.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_extra_json("{");
  EXPECT_EQ(ErrorField(FromProto(proto).status()), "chat.messages[0].extra_json");
  message->set_extra_json("[]");
  EXPECT_EQ(ErrorField(FromProto(proto).status()), "chat.messages[0].extra_json");
  message->clear_extra_json();
  proto.mutable_chat()->set_tools_json(std::string(100000, '['));
  EXPECT_EQ(ErrorField(FromProto(proto).status()), "chat.tools_json");
  message->clear_role();
  proto.mutable_chat()->clear_tools_json();
  EXPECT_EQ(ErrorField(FromProto(proto).status()), "chat.messages[0].role");
}

TEST(ConvertTest, StatusesFollowTheTable) {
  for (const StatusMapping& mapping : kStatusMappings) {
    EXPECT_EQ(ToGrpc(absl::Status(mapping.code, "why")).error_code(), mapping.grpc);
  }
  EXPECT_EQ(static_cast<int>(grpc::StatusCode::UNAUTHENTICATED),
            MapStatus(absl::StatusCode::kUnauthenticated).grpc);
  EXPECT_EQ(static_cast<int>(grpc::StatusCode::CANCELLED),
            MapStatus(absl::StatusCode::kCancelled).grpc);
}

}  // namespace
}  // namespace hostler
