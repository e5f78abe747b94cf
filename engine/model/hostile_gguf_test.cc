// GGUF metadata is hostile input: whatever a key says, loading ends in an error
// that names something, or in a model; never in a crash.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/loader.h"
#include "engine/weights/gguf_test_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A key's type and bytes.
struct Value {
  GgufType type;
  std::string bytes;
};

Value U32(uint32_t value) { return {GgufType::kU32, GgufBytes(value)}; }
Value F32(float value) { return {GgufType::kF32, GgufBytes(value)}; }
Value Bool(bool value) { return {GgufType::kBool, GgufBytes(uint8_t{value})}; }
Value String(const std::string& value) { return {GgufType::kString, GgufBytes(value)}; }
Value List(const std::vector<uint32_t>& values) {
  std::string bytes =
      GgufBytes(static_cast<uint32_t>(GgufType::kU32)) + GgufBytes(uint64_t{values.size()});
  for (const uint32_t value : values) bytes += GgufBytes(value);
  return {GgufType::kArray, bytes};
}

struct Tensor {
  std::string name;
  std::vector<uint64_t> dims;  // innermost first
};

struct File {
  std::string architecture;
  std::vector<std::pair<std::string, Value>> keys;  // below the architecture
  std::vector<Tensor> tensors;

  void Set(const std::string& key, Value value) {
    for (auto& [name, old] : keys) {
      if (name == key) {
        old = std::move(value);
        return;
      }
    }
    keys.emplace_back(key, std::move(value));
  }
};

// A layer's experts, 8 wide.
void AddExperts(const std::string& layer, File* file) {
  file->tensors.insert(file->tensors.end(), {{layer + "ffn_gate_inp.weight", {8, 4}},
                                             {layer + "ffn_gate_exps.weight", {8, 8, 4}},
                                             {layer + "ffn_up_exps.weight", {8, 8, 4}},
                                             {layer + "ffn_down_exps.weight", {8, 8, 4}}});
}

File Common(const std::string& architecture) {
  File file{architecture, {}, {}};
  file.keys = {{"block_count", U32(2)},
               {"context_length", U32(64)},
               {"embedding_length", U32(8)},
               {"feed_forward_length", U32(8)},
               {"attention.head_count", U32(2)},
               {"attention.head_count_kv", U32(1)},
               {"attention.layer_norm_rms_epsilon", F32(1e-6f)},
               {"rope.freq_base", F32(10000)},
               {"rope.scaling.type", String("yarn")},
               {"rope.scaling.factor", F32(4)},
               {"rope.scaling.original_context_length", U32(16)},
               {"rope.scaling.yarn_beta_fast", F32(32)},
               {"expert_count", U32(4)},
               {"expert_used_count", U32(2)},
               {"expert_feed_forward_length", U32(8)}};
  file.tensors = {
      {"token_embd.weight", {8, 16}}, {"output_norm.weight", {8}}, {"output.weight", {8, 16}}};
  return file;
}

File Deepseek() {
  File file = Common("deepseek2");
  file.keys.insert(file.keys.end(), {{"attention.q_lora_rank", U32(4)},
                                     {"attention.kv_lora_rank", U32(4)},
                                     {"attention.key_length", U32(6)},
                                     {"attention.value_length", U32(4)},
                                     {"attention.key_length_mla", U32(6)},
                                     {"attention.value_length_mla", U32(4)},
                                     {"rope.dimension_count", U32(2)},
                                     {"rope.scaling.yarn_log_multiplier", F32(0.1f)},
                                     {"leading_dense_block_count", U32(1)},
                                     {"expert_shared_count", U32(1)},
                                     {"expert_group_count", U32(2)},
                                     {"expert_group_used_count", U32(1)},
                                     {"expert_gating_func", U32(2)},
                                     {"expert_weights_scale", F32(2.5f)},
                                     {"expert_weights_norm", Bool(true)}});
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    file.tensors.insert(file.tensors.end(), {{layer + "attn_norm.weight", {8}},
                                             {layer + "ffn_norm.weight", {8}},
                                             {layer + "attn_q_a.weight", {8, 4}},
                                             {layer + "attn_q_a_norm.weight", {4}},
                                             {layer + "attn_q_b.weight", {4, 12}},
                                             {layer + "attn_kv_a_mqa.weight", {8, 6}},
                                             {layer + "attn_kv_a_norm.weight", {4}},
                                             {layer + "attn_k_b.weight", {4, 4, 2}},
                                             {layer + "attn_v_b.weight", {4, 4, 2}},
                                             {layer + "attn_output.weight", {8, 8}}});
  }
  AddExperts("blk.1.", &file);
  file.tensors.push_back({"blk.1.exp_probs_b.bias", {4}});
  for (const std::string place : {"blk.0.ffn_%.weight", "blk.1.ffn_%_shexp.weight"}) {
    for (const std::string part : {"gate", "up", "down"}) {
      std::string name = place;
      file.tensors.push_back({name.replace(name.find('%'), 1, part), {8, 8}});
    }
  }
  return file;
}

File GptOss() {
  File file = Common("gpt-oss");
  file.keys.insert(file.keys.end(), {{"attention.key_length", U32(4)},
                                     {"attention.value_length", U32(4)},
                                     {"attention.sliding_window", U32(16)},
                                     {"attention.sliding_window_pattern", List({1, 0})}});
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    file.tensors.insert(file.tensors.end(), {{layer + "attn_norm.weight", {8}},
                                             {layer + "post_attention_norm.weight", {8}},
                                             {layer + "attn_q.weight", {8, 8}},
                                             {layer + "attn_q.bias", {8}},
                                             {layer + "attn_k.weight", {8, 4}},
                                             {layer + "attn_k.bias", {4}},
                                             {layer + "attn_v.weight", {8, 4}},
                                             {layer + "attn_v.bias", {4}},
                                             {layer + "attn_output.weight", {8, 8}},
                                             {layer + "attn_output.bias", {8}},
                                             {layer + "attn_sinks.weight", {2}},
                                             {layer + "ffn_gate_inp.bias", {4}},
                                             {layer + "ffn_gate_exps.bias", {8, 4}},
                                             {layer + "ffn_up_exps.bias", {8, 4}},
                                             {layer + "ffn_down_exps.bias", {8, 4}}});
    AddExperts(layer, &file);
  }
  return file;
}

class HostileGgufTest : public ::testing::Test {
 protected:
  HostileGgufTest()
      : path_(fs::path(::testing::TempDir()) /
              ("hostler_hostile_" + std::to_string(::getpid()) + ".gguf")) {}
  ~HostileGgufTest() override { fs::remove(path_); }

  absl::Status Load(const File& file) {
    GgufWriter writer;
    writer.Add("general.architecture", GgufType::kString, file.architecture);
    for (const auto& [key, value] : file.keys) {
      writer.AddRaw(file.architecture + "." + key, value.type, value.bytes);
    }
    for (const Tensor& tensor : file.tensors) {
      uint64_t size = sizeof(float);
      for (const uint64_t dim : tensor.dims) size *= dim;
      writer.AddTensor(tensor.name, tensor.dims, /*type=f32*/ 0, std::string(size, '\0'));
    }
    std::ofstream(path_, std::ios::binary) << writer.File();
    return CheckModel(path_.string());
  }
  void ExpectRefused(const File& file, const std::string& named) {
    const absl::Status status = Load(file);
    EXPECT_FALSE(status.ok()) << named;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named));
  }

  const fs::path path_;
};

TEST_F(HostileGgufTest, AnyValueOfAnyKeyIsSurvived) {
  const std::vector<Value> numbers = {U32(0),
                                      U32(1),
                                      U32(3),
                                      U32(1000000),
                                      U32(1u << 31),
                                      {GgufType::kI32, GgufBytes(int32_t{-1})},
                                      {GgufType::kI64, GgufBytes(INT64_MIN)},
                                      {GgufType::kU64, GgufBytes(UINT64_MAX)},
                                      F32(1.5f),
                                      F32(-0.5f),
                                      F32(1e30f),
                                      F32(NAN),
                                      Bool(false)};
  for (const File& file : {Deepseek(), GptOss()}) {
    ASSERT_TRUE(Load(file).ok()) << Load(file);
    for (size_t i = 0; i < file.keys.size(); ++i) {
      for (const Value& value : numbers) {
        File changed = file;
        changed.keys[i].second = value;
        const absl::Status status = Load(changed);
        if (!status.ok()) {
          EXPECT_FALSE(status.message().empty()) << file.keys[i].first;
        }
      }
      File missing = file;
      missing.keys.erase(missing.keys.begin() + i);
      Load(missing).IgnoreError();
    }
  }
}

TEST_F(HostileGgufTest, OtherKindsOfValuesAreRefusedByKey) {
  for (const File& file : {Deepseek(), GptOss()}) {
    for (const auto& [key, value] : file.keys) {
      for (const Value& other : {String("x"), List({}), List({1}), List({1, 2, 3})}) {
        File changed = file;
        changed.Set(key, other);
        ExpectRefused(changed, file.architecture + "." + key);
      }
    }
  }
}

TEST_F(HostileGgufTest, SizesOutOfRangeAreRefusedByKey) {
  for (const char* key : {"block_count", "attention.head_count", "expert_used_count",
                          "expert_group_count", "attention.kv_lora_rank", "rope.dimension_count"}) {
    File file = Deepseek();
    file.Set(key, {GgufType::kI32, GgufBytes(int32_t{-2})});
    ExpectRefused(file, std::string("deepseek2.") + key);
  }
}

TEST_F(HostileGgufTest, WhatIsNotSupportedIsNamed) {
  ExpectRefused(File{"mamba", {}, {}}, "\"mamba\"");
  File file = Deepseek();
  file.Set("expert_gating_func", U32(4));
  ExpectRefused(file, "\"deepseek2.expert_gating_func\" is 4");
  file = Deepseek();
  file.Set("attention.temperature_scale", F32(0.1f));
  ExpectRefused(file, "\"deepseek2.attention.temperature_scale\"");
  file = Deepseek();
  file.Set("attention.sliding_window_pattern", List({1, 0}));
  ExpectRefused(file, "\"deepseek2.attention.sliding_window_pattern\"");
  file = Deepseek();
  file.Set("rope.scaling.type", String("dynamic"));
  ExpectRefused(file, "\"deepseek2.rope.scaling.type\" is \"dynamic\"");
  file = Deepseek();
  file.tensors.push_back({"blk.1.indexer.k_norm.weight", {8}});
  ExpectRefused(file, "\"blk.1.indexer.k_norm.weight\"");
}

TEST_F(HostileGgufTest, TensorsAreCalledAsInTheFile) {
  File file = GptOss();
  std::erase_if(file.tensors, [](const Tensor& t) { return t.name == "blk.1.attn_sinks.weight"; });
  ExpectRefused(file, "tensor \"blk.1.attn_sinks.weight\" is missing");
  file = GptOss();
  file.tensors.push_back({"blk.1.attn_q_norm.weight", {4}});
  ExpectRefused(file, "tensor \"blk.1.attn_q_norm.weight\" is not of this architecture");
  file = Deepseek();
  file.tensors.push_back({"blk.0.ffn_up.bias", {8}});
  ExpectRefused(file, "tensor \"blk.0.ffn_gate.bias\" is missing");
}

TEST_F(HostileGgufTest, EmptyFrequencyFactorsAreRefused) {
  File file = Common("llama");
  file.tensors.push_back({"rope_freqs.weight", {0}});
  ExpectRefused(file, "tensor \"rope_freqs.weight\" is missing, empty");
}

TEST_F(HostileGgufTest, LayersThatPredictFurtherTokensMustLeaveOne) {
  File file = Deepseek();
  file.Set("nextn_predict_layers", U32(2));
  ExpectRefused(file, "deepseek2.nextn_predict_layers");
  file.Set("nextn_predict_layers", U32(1));
  EXPECT_TRUE(Load(file).ok()) << Load(file);
}

}  // namespace
}  // namespace hostler
