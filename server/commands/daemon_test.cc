#include "server/commands/daemon.h"

#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "proto/hostler.grpc.pb.h"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

using testing::HasSubstr;

// The sample models, as `hostler serve` would serve them.
class DaemonTest : public testing::Test {
 protected:
  void SetUp() override { spdlog::set_level(spdlog::level::off); }

  static ServeConfig Config() {
    ServeConfig config;
    config.port = 0;
    config.grpc_port = 0;
    return config;
  }

  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const ServeConfig& config) {
    Deployment deployment;
    for (const char* name : {"sample-moe", "sample-dense"}) {
      ModelDeployment model;
      model.name = name;
      model.path = std::string(HOSTLER_SOURCE_DIR "/models/") + name;
      model.options.memory_bytes = 512 << 20;
      model.options.threads = 1;
      deployment.models.push_back(model);
    }
    VirtualModelConfig automatic;
    automatic.name = "auto";
    automatic.rules = {{"sample-dense", 4}, {"sample-moe", 0}};
    deployment.virtual_models = {automatic};
    return Daemon::Start(config, deployment);
  }

  static std::unique_ptr<v1::Hostler::Stub> Connect(const Daemon& daemon) {
    return v1::Hostler::NewStub(grpc::CreateChannel(
        "127.0.0.1:" + std::to_string(daemon.grpc_port()), grpc::InsecureChannelCredentials()));
  }

  static v1::GenerateRequest Request(int max_tokens) {
    v1::GenerateRequest request;
    request.set_model("sample-moe");
    request.set_text("Once upon a time");
    request.set_max_tokens(max_tokens);
    request.set_ignore_eos(true);
    request.mutable_sampling()->set_temperature(0);
    return request;
  }
};

TEST_F(DaemonTest, ServesRealModelsAndSaysWhere) {
  const auto daemon = Start(Config());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const std::string text = (*daemon)->Describe();
  EXPECT_THAT(text, HasSubstr("sample-moe  qwen3_moe"));
  EXPECT_THAT(text, HasSubstr("http://127.0.0.1:"));
  EXPECT_THAT(text, HasSubstr("curl "));
  EXPECT_THAT(text, HasSubstr("sample-dense up to 4 prompt tokens"));

  v1::GenerateRequest request = Request(8);
  request.set_model("auto");
  grpc::ClientContext context;
  const auto reader = Connect(**daemon)->Generate(&context, request);
  v1::GenerateResponse response;
  std::string answer, target;
  int tokens = 0;
  while (reader->Read(&response)) {
    if (response.has_started()) target = response.started().target();
    answer += response.delta().text();
    tokens += response.delta().token_ids_size();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(target, "sample-dense") << "four tokens, the cheaper by being listed first";
  EXPECT_EQ(tokens, 8);
  EXPECT_FALSE(answer.empty());
}

TEST_F(DaemonTest, AnEncoderThatCannotBeLoadedIsRefusedByTheNameOfItsSetting) {
  ServeConfig config = Config();
  config.encoder = testing::TempDir() + "/no_such_encoder";
  const absl::Status missing = Daemon::LoadEncoder(config).status();
  EXPECT_THAT(std::string(missing.message()), HasSubstr("encoder: "));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no_such_encoder"));
  EXPECT_EQ(Start(config).status(), missing);
}

TEST_F(DaemonTest, DrainLetsRunningRequestsEndAndTakesNoMore) {
  const auto daemon = Start(Config());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto stub = Connect(**daemon);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, Request(300));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::thread drain([&] { (*daemon)->Drain(); });
  int tokens = 0;
  while (reader->Read(&response)) tokens += response.delta().token_ids_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 300);
  drain.join();
  grpc::ClientContext late;
  EXPECT_EQ(stub->Generate(&late, Request(1))->Finish().error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(DaemonTest, DrainCutsOffWhatOutlivesItsTimeout) {
  ServeConfig config = Config();
  config.drain_timeout_s = 0;
  const auto daemon = Start(config);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto stub = Connect(**daemon);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, Request(1900));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  (*daemon)->Drain();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(DaemonTest, APortInUseIsToldBeforeAModelIsLoaded) {
  const auto daemon = Start(Config());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  ServeConfig config = Config();
  config.port = (*daemon)->http_port();
  const auto second = Daemon::Start(config, Deployment());
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(std::to_string(config.port)));
}

}  // namespace
}  // namespace hostler
