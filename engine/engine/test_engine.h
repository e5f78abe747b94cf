// What the engine's tests share: a sample model that is served, and requests
// that are answered greedily.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine/engine.h"
#include "gtest/gtest.h"

namespace hostler {

// Null, and a failed test, when the engine cannot be had.
inline std::unique_ptr<Engine> LoadSample(const std::string& name, const EngineOptions& options) {
  auto engine = Engine::Load(HOSTLER_SOURCE_DIR "/models/" + name, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

inline GenerateRequest Greedy(std::vector<int32_t> prompt, int tokens) {
  GenerateRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = tokens;
  request.ignore_eos = true;
  return request;
}

struct TokensAnswered {
  std::vector<int32_t> tokens;
  absl::Status status;
};

// Submits all, then waits for all; of one sequence each.
inline std::vector<TokensAnswered> AnswerAtOnce(Engine& engine,
                                                const std::vector<GenerateRequest>& requests) {
  std::vector<std::shared_ptr<GenerateStream>> streams;
  std::vector<TokensAnswered> answers(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    auto stream = engine.Submit(requests[i]);
    answers[i].status = stream.status();
    streams.push_back(stream.ok() ? *std::move(stream) : nullptr);
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    if (streams[i] == nullptr) continue;
    while (const auto event = streams[i]->Pop()) {
      answers[i].tokens.insert(answers[i].tokens.end(), event->token_ids.begin(),
                               event->token_ids.end());
    }
    answers[i].status = streams[i]->status();
  }
  return answers;
}

// One request's tokens; a failed test when it fails.
inline std::vector<int32_t> TokensOf(Engine& engine, const GenerateRequest& request) {
  TokensAnswered answer = AnswerAtOnce(engine, {request}).front();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  return std::move(answer.tokens);
}

// Prompts of mixed lengths.
inline std::vector<std::vector<int32_t>> MixedPrompts(int count = 16) {
  std::vector<std::vector<int32_t>> prompts(count);
  uint32_t state = 1;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const size_t size = 1 + (i * 37) % 150;
    for (size_t j = 0; j < size; ++j) {
      state = state * 1664525u + 1013904223u;
      prompts[i].push_back(3 + (state >> 8) % 4000);
    }
  }
  return prompts;
}

// `tokens` of each of MixedPrompts(count), all at once.
inline std::vector<std::vector<int32_t>> AskAllAtOnce(Engine& engine, int tokens, int count = 16) {
  std::vector<GenerateRequest> requests;
  for (auto& prompt : MixedPrompts(count)) requests.push_back(Greedy(std::move(prompt), tokens));
  std::vector<std::vector<int32_t>> out;
  for (TokensAnswered& answer : AnswerAtOnce(engine, requests)) {
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    out.push_back(std::move(answer.tokens));
  }
  return out;
}

}  // namespace hostler
