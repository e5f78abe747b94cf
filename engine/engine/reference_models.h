// The reference models of ../shared/golden, and what a test asks of each.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/engine/engine.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {

namespace fs = std::filesystem;

inline const char* const kOther = std::getenv("HOSTLER_GOLDEN");  // a folder of the same form
inline const fs::path kGolden =
    kOther ? fs::path(kOther) : fs::path(HOSTLER_SOURCE_DIR) / "../shared/golden";

struct ReferenceModel {
  std::string name;
  fs::path model;   // what to load
  fs::path golden;  // golden.json and its .npy files
};

inline void PrintTo(const ReferenceModel& model, std::ostream* out) { *out << model.name; }

// Files of the same models that make_gguf.py writes in other ways.
inline constexpr std::pair<const char*, const char*> kVariants[] = {{"deepseek_v2", "kv_b"},
                                                                    {"glm4_moe", "nextn"}};

// Where the tests' fixture has put a model's GGUF file.
inline fs::path GgufFile(const std::string& name) {
  const char* directory = std::getenv("HOSTLER_GGUF_MODELS");
  return fs::path(directory == nullptr ? "" : directory) / (name + ".gguf");
}

inline ReferenceModel Converted(const std::string& name, const std::string& variant,
                                const fs::path& golden) {
  const bool plain = variant.empty();
  return {name + (plain ? "" : "_" + variant) + "_as_gguf",
          GgufFile(plain ? name : name + "." + variant), golden};
}

inline std::vector<ReferenceModel> ReferenceModels() {
  std::vector<ReferenceModel> models;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(kGolden / "models", missing)) {
    const std::string name = entry.path().filename().string();
    models.push_back({name, entry.path(), entry.path()});
    // GGUF has no key for Mistral's window.
    if (name != "mistral") models.push_back(Converted(name, "", entry.path()));
  }
  for (const auto& [name, variant] : kVariants) {
    const fs::path golden = kGolden / "models" / name;
    if (fs::exists(golden)) models.push_back(Converted(name, variant, golden));
  }
  for (const auto& entry : fs::directory_iterator(kGolden / "gguf/models", missing)) {
    if (entry.path().extension() != ".gguf") continue;
    std::string name = entry.path().stem().string() + "_gguf";
    std::replace(name.begin(), name.end(), '.', '_');
    fs::path golden = entry.path();
    models.push_back({name, entry.path(), golden.replace_extension(".golden")});
  }
  std::sort(models.begin(), models.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  if (models.empty()) models.push_back({"missing", "", ""});
  return models;
}

inline std::vector<float> ReadNpy(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t start = 10 + uint8_t(bytes[8]) + 256 * uint8_t(bytes[9]);
  std::vector<float> values((bytes.size() - start) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + start, values.size() * sizeof(float));
  return values;
}

class ReferenceModelTest : public ::testing::TestWithParam<ReferenceModel> {
 protected:
  void SetUp() override {
    if (GetParam().model.empty()) GTEST_SKIP() << "needs ../shared/golden";
    if (!fs::exists(GetParam().model)) GTEST_SKIP() << "needs " << GetParam().model;
    golden_ = nlohmann::json::parse(std::ifstream(GetParam().golden / "golden.json"));
  }

  std::unique_ptr<Engine> Load(bool few_experts) {
    return LoadWith(few_experts ? 40 << 10 : 0);  // one to three experts
  }
  std::unique_ptr<Engine> LoadWith(uint64_t expert_bytes) {
    EngineOptions options;
    options.precise = true;
    options.threads = 2;
    options.memory_bytes = uint64_t{256} << 20;
    options.expert_memory_bytes = expert_bytes;
    options.host_expert_memory_bytes = 0;
    options.new_backend = new_backend_;
    if (adjust_) adjust_(&options);
    auto engine = Engine::Load(GetParam().model.string(), options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  std::vector<int32_t> Prompt(const char* name) { return golden_["prompts"][name]; }
  std::vector<int32_t> Greedy(const char* name) { return golden_["greedy"][name]["tokens"]; }
  double tolerance() const { return GetParam().name.starts_with("qwen3_next") ? 2e-3 : 2e-4; }

  void ExpectLogits(const std::vector<float>& got, const fs::path& file) {
    const std::vector<float> expected = ReadNpy(GetParam().golden / file);
    ASSERT_EQ(got.size(), expected.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::fabs(double(got[i]) - expected[i]));
      if (std::isnan(got[i])) worst = INFINITY;
    }
    EXPECT_LE(worst, tolerance()) << file;
  }

  // Those of the short prompt, and the last of the long one.
  void ExpectGoldenLogits(Engine& engine) {
    const auto logits = engine.Logits(Prompt("short"));
    ASSERT_TRUE(logits.ok()) << logits.status();
    ExpectLogits(*logits, "logits_short.npy");
    const auto all = engine.Logits(Prompt("long"));
    ASSERT_TRUE(all.ok()) << all.status();
    ExpectLogits({all->end() - engine.model().vocab, all->end()}, "logits_long_last.npy");
  }

  // Greedy answers to `copies` times both prompts, asked at once.
  void ExpectGreedy(Engine& engine, int copies) {
    std::vector<std::pair<const char*, std::shared_ptr<GenerateStream>>> asked;
    for (int i = 0; i < copies; ++i) {
      for (const char* name : {"short", "long"}) {
        GenerateRequest request;
        request.prompt = Prompt(name);
        request.sampling.temperature = 0;
        request.ignore_eos = true;
        request.max_tokens = static_cast<int>(Greedy(name).size());
        auto stream = engine.Submit(request);
        ASSERT_TRUE(stream.ok()) << stream.status();
        asked.emplace_back(name, *stream);
      }
    }
    for (auto& [name, stream] : asked) {
      std::vector<int32_t> tokens;
      while (auto event = stream->Pop()) tokens.push_back(event->token_ids[0]);
      EXPECT_EQ(tokens, Greedy(name)) << name;
    }
  }

  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> new_backend_;  // null: the CPU's
  std::function<void(EngineOptions*)> adjust_;                             // null: nothing
  nlohmann::json golden_;
};

}  // namespace hostler
