// A fixture with a server on a free loopback port before two TestEngines.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "router/test_engine.h"
#include "server/http/http_server.h"
#include "server/http/test_client.h"
#include "server/service.h"

namespace hostler {

// A token is a byte.
class ByteTokenizer : public Tokenizer {
 public:
  int vocab_size() const override { return 256; }
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id) const override {
    return std::string(1, static_cast<char>(id));
  }
  bool IsSpecial(int32_t) const override { return false; }
  std::optional<int32_t> FindToken(std::string_view) const override { return std::nullopt; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
};

// A chat's tokens are its messages' JSON text.
class ByteEngine : public TestEngine {
 public:
  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const GenerateRequest& request) const override {
    if (const auto* chat = std::get_if<ChatPrompt>(&request.prompt)) {
      return bytes_.Encode(chat->messages.dump(), {});
    }
    return TestEngine::TokenizePrompt(request);
  }
  const Tokenizer* tokenizer() const override { return &bytes_; }

 private:
  ByteTokenizer bytes_;
};

class QuietLog : public RequestLog {
 public:
  void Write(const RequestRecord&) override {}
};

inline GenerateEvent TextEvent(const std::string& text, int index = 0) {
  GenerateEvent event;
  event.index = index;
  event.text = text;
  event.token_ids = {7};
  return event;
}

inline GenerateEvent LastEvent(const std::string& text, int index = 0) {
  GenerateEvent event = TextEvent(text, index);
  event.finish_reason = FinishReason::kStop;
  return event;
}

class HttpTest : public testing::Test {
 protected:
  HttpTest() {
    small_ = AddEngine("small");
    large_ = AddEngine("org/large");
    EXPECT_TRUE(
        router_.AddVirtualModel("auto", NewStaticPolicy({{"small", 5}, {"org/large", 0}})).ok());
    options_.host = "127.0.0.1";
    options_.port = 0;
  }

  // Stops before the engines go, as the daemon does.
  ~HttpTest() override { server_.reset(); }

  void StartServer() {
    auto server = HttpServer::Start(options_, &service_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  int port() const { return server_->port(); }

  ByteEngine* AddEngine(const std::string& name) {
    auto engine = std::make_unique<ByteEngine>();
    ByteEngine* result = engine.get();
    EXPECT_TRUE(router_.AddTarget(NewLocalTarget(name, {1, 1}, std::move(engine))).ok());
    return result;
  }

  // Every request to `engine` is answered at once: "Hello" and " world" for
  // each of its sequences.
  static void AnswerAtOnce(TestEngine* engine) {
    engine->on_submit = [](const GenerateRequest& request, GenerateStream& stream, Usage usage) {
      for (int i = 0; i < request.n; ++i) {
        stream.Push(TextEvent("Hello", i));
        stream.Push(LastEvent(" world", i));
      }
      usage.completion_tokens = 2 * request.n;
      stream.End(absl::OkStatus(), usage, {});
    };
  }

  // Blocks until the request's client has been noticed to be gone.
  static void WaitUntilCancelled(GenerateStream* stream) {
    std::mutex mutex;
    std::condition_variable changed;
    std::unique_lock lock(mutex);
    for (int i = 0; i < 1000 && !stream->cancelled(); ++i) {
      changed.wait_for(lock, std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(stream->cancelled());
  }

  HttpOptions options_;
  Router router_;
  ByteEngine* small_;
  ByteEngine* large_;
  QuietLog log_;
  Metrics metrics_{&router_};
  Service service_{&router_, &metrics_, &log_};
  std::unique_ptr<HttpServer> server_;
};

}  // namespace hostler
