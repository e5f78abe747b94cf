// A configuration is hostile input: whatever a key says, loading ends in an
// error that names something, or in a model; never in a crash.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/config_reader.h"
#include "engine/model/loader.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

TEST(ConfigReaderTest, RemembersTheFirstProblem) {
  const nlohmann::json json = {{"a", 3}, {"b", "x"}, {"c", nullptr}, {"d", 1e30}, {"e", -1}};
  ConfigReader reader(json, "config.json");
  EXPECT_EQ(reader.Int("a", 1, 10), 3);
  EXPECT_EQ(reader.Int("c", 1, 10, 7), 7);
  EXPECT_TRUE(reader.status().ok());
  reader.Int("e", 1, 10);
  reader.Int("b", 1, 10);
  EXPECT_EQ(reader.status().message(), "config.json: \"e\" is -1, must be from 1 to 10");
}

TEST(ConfigReaderTest, RefusesOtherTypesAndMissingKeys) {
  const nlohmann::json json = {{"text", "x"}, {"huge", uint64_t{1} << 63}, {"real", 1.5}};
  for (const char* key : {"text", "huge", "real", "missing"}) {
    ConfigReader reader(json, "config.json");
    reader.Int(key, 0, 100);
    EXPECT_FALSE(reader.status().ok()) << key;
  }
  const nlohmann::json list = nlohmann::json::array();
  ConfigReader reader(list, "config.json");
  reader.Int("a", 0, 1);
  EXPECT_FALSE(reader.status().ok());
}

TEST(ConfigReaderTest, FamiliesGoOnReadingAfterAProblemWithPositions) {
  for (const char* type : {"llama4_text", "ernie4_5_moe", "gemma3_text"}) {
    const nlohmann::json config = {{"model_type", type}, {"partial_rotary_factor", 1.5}};
    EXPECT_FALSE(FindArchitecture(config)->configure(config).ok()) << type;
  }
}

class HostileConfigTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const fs::path source = Source();
    if (!fs::exists(source)) GTEST_SKIP() << "needs " << source;
    directory_ = fs::path(::testing::TempDir()) /
                 ("hostler_config_" + GetParam() + std::to_string(::getpid()));
    fs::create_directories(directory_);
    fs::create_symlink(source / "model.safetensors", directory_ / "model.safetensors");
    std::ifstream file(source / "config.json");
    config_ = nlohmann::json::parse(file);
  }
  void TearDown() override {
    if (!directory_.empty()) fs::remove_all(directory_);
  }

  fs::path Source() const {
    return fs::path(HOSTLER_SOURCE_DIR) / "../shared/golden/models" / GetParam();
  }
  absl::Status Load(const nlohmann::json& config) {
    std::ofstream(directory_ / "config.json") << config;
    return CheckModel(directory_.string());
  }

  fs::path directory_;
  nlohmann::json config_;
};

TEST_P(HostileConfigTest, AnyValueOfAnyKeyIsSurvived) {
  ASSERT_TRUE(Load(config_).ok()) << Load(config_);
  const std::vector<nlohmann::json> values = {nullptr,
                                              -1,
                                              0,
                                              1,
                                              3,
                                              1000000,
                                              int64_t{1} << 40,
                                              uint64_t{1} << 63,
                                              1.5,
                                              -0.5,
                                              1e300,
                                              "x",
                                              "",
                                              true,
                                              false,
                                              nlohmann::json::array(),
                                              nlohmann::json::object(),
                                              {1, 2},
                                              {{"rope_type", "yarn"}, {"factor", -1}},
                                              {{"rope_type", "longrope"}},
                                              {{"type", "llama3"}, {"factor", 0}}};
  std::vector<std::string> keys = {"clip_qkv",         "gate_residual",    "num_constant_experts",
                                   "num_copy_experts", "num_null_experts", "num_zero_experts",
                                   "rope_parameters",  "rotary_dim",       "top_p_threshold",
                                   "zero_expert_num"};
  for (const auto& item : config_.items()) keys.push_back(item.key());
  for (const std::string& key : keys) {
    for (const nlohmann::json& value : values) {
      nlohmann::json changed = config_;
      changed[key] = value;
      const absl::Status status = Load(changed);
      if (!status.ok()) {
        EXPECT_FALSE(status.message().empty()) << key << " " << value;
      }
    }
  }
}

// Qwen3-Next's first layer has no attention.
TEST_P(HostileConfigTest, AModelOfOneLayerHasBlocks) {
  config_.erase("layer_types");
  config_["num_hidden_layers"] = 1;
  ASSERT_TRUE(Load(config_).ok()) << Load(config_);
  const auto model = LoadModel(directory_.string(), ModelOptions(), *NewCpuBackend(1));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GT(model->model->kv_layout().token_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Families, HostileConfigTest,
                         ::testing::Values("deepseek_v2", "deepseek_v3", "ernie4_5_moe", "gemma2",
                                           "gemma3_text", "glm4_moe", "gpt_oss", "gpt_oss_mxfp4",
                                           "granitemoe", "llama", "llama4_text", "minimax_m2",
                                           "mixtral", "olmoe", "phi3", "phimoe", "qwen2_moe",
                                           "qwen3_moe", "qwen3_next"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace hostler
