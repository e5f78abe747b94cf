// What the families read from config.json: spellings, defaults, and what they
// refuse by its name. What the numbers do is the reference models' to show.
#include <string>

#include "engine/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Base(const std::string& type) {
  return {{"model_type", type},     {"vocab_size", 96},
          {"hidden_size", 32},      {"intermediate_size", 24},
          {"num_hidden_layers", 6}, {"num_attention_heads", 4},
          {"head_dim", 8},          {"max_position_embeddings", 256}};
}

json With(json config, const json& changes) {
  config.update(changes);
  return config;
}

json Moe(const std::string& type) {
  return With(Base(type), {{"num_experts", 8},
                           {"num_local_experts", 8},
                           {"num_experts_per_tok", 2},
                           {"moe_intermediate_size", 24}});
}

absl::StatusOr<DecoderConfig> Read(const json& config) {
  return FindArchitecture(config)->configure(config);
}

DecoderConfig Good(const json& config) {
  auto decoder = Read(config);
  if (decoder.ok()) return *decoder;
  ADD_FAILURE() << decoder.status();
  return *Read(Base("llama"));
}

TEST(FamilyConfigTest, RefusesByNameWhatItDoesNotCompute) {
  const json two_ropes = {
      {"rope_parameters",
       {{"full_attention", {{"rope_theta", 1e6}}}, {"sliding_attention", {{"rope_theta", 1e4}}}}}};
  const json ntk = {{"rope_scaling", {{"type", "ntk"}, {"factor", 2.0}}}};
  const json alpha = {{"rope_scaling", {{"type", "dynamic"}, {"alpha", 1000.0}}}};
  const std::pair<json, const char*> cases[] = {
      {With(Base("llama"), two_ropes), "rope_parameters"},
      {With(Base("llama"), ntk), "ntk"},
      {With(Base("llama"), alpha), "dynamic"},
      {With(Base("llama"), {{"rope_scaling", "yarn"}}), "rope_scaling"},
      {With(Moe("minimax_m2"), {{"rotary_dim", 10}}), "rotary_dim"},
      {With(Moe("minimax_m2"), {{"rotary_dim", 5}}), "rotary_dim"},
      {With(Base("qwen2"), {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor"},
      {With(Base("gemma3_text"), {{"use_bidirectional_attention", true}}),
       "use_bidirectional_attention"},
      {With(Base("gemma3_text"), {{"rope_parameters", {{"rope_theta", 1e6}}}}), "rope_parameters"},
      {With(Moe("gpt_oss"), {{"swiglu_alpha", 1.5}}), "swiglu_alpha"},
      {With(Moe("phimoe"), {{"num_experts_per_tok", 4}}), "num_experts_per_tok"},
      {With(Moe("minimax_m2"), {{"attn_type_list", {1, 0, 1}}}), "attn_type_list"},
      {With(Moe("minimax_m2"), {{"top_p_threshold", 0.5}}), "top_p_threshold"},
      {With(Moe("mixtral"), {{"top_p_threshold", 1.5}}), "top_p_threshold"},
      {With(Moe("mixtral"), {{"zero_expert_num", 2}, {"zero_expert_type", "drop"}}),
       "zero_expert_type"},
      {With(Moe("mixtral"), {{"num_null_experts", -1}}), "num_null_experts"},
      {With(Moe("llama4_text"), {{"num_constant_experts", 1}}), "num_constant_experts"},
  };
  for (const auto& [config, name] : cases) {
    const auto decoder = Read(config);
    ASSERT_FALSE(decoder.ok()) << config;
    EXPECT_THAT(std::string(decoder.status().message()), HasSubstr(name));
  }
}

TEST(FamilyConfigTest, OldAndNewSpellingsOfRopeAreTheSame) {
  const json scaling = {{"rope_type", "yarn"},
                        {"factor", 4.0},
                        {"truncate", false},
                        {"original_max_position_embeddings", 64}};
  for (const char* type : {"llama", "qwen3", "phi3", "mistral"}) {
    const DecoderConfig old =
        Good(With(Base(type), {{"rope_theta", 5e5}, {"rope_scaling", scaling}}));
    const DecoderConfig newer =
        Good(With(Base(type), {{"rope_parameters", With(scaling, {{"rope_theta", 5e5}})}}));
    EXPECT_EQ(old.ropes[0].inv_freq, newer.ropes[0].inv_freq) << type;
    EXPECT_EQ(old.ropes[0].scale, newer.ropes[0].scale) << type;
    EXPECT_NE(old.ropes[0].scale, 1) << type;
  }
}

TEST(FamilyConfigTest, GemmasLayerTypesHaveTheirOwnRopes) {
  const json parameters = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 5e3}}}};
  const DecoderConfig newer = Good(With(Base("gemma3_text"), {{"rope_parameters", parameters}}));
  const DecoderConfig old =
      Good(With(Base("gemma3_text"), {{"rope_theta", 1e6},
                                      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}},
                                      {"rope_local_base_freq", 5e3}}));
  ASSERT_EQ(newer.ropes.size(), 2u);
  for (int i : {0, 1}) EXPECT_EQ(newer.ropes[i].inv_freq, old.ropes[i].inv_freq) << i;
  EXPECT_FLOAT_EQ(newer.ropes[0].inv_freq[0], 1.0f / 8);
  EXPECT_EQ(newer.ropes[1].inv_freq[0], 1.0f);
  EXPECT_EQ(newer.layers[0].rope, 1);
  EXPECT_EQ(newer.layers[5].rope, 0);
}

TEST(FamilyConfigTest, NullIsNotMissing) {
  const json base = Base("gemma2");
  EXPECT_EQ(Good(base).logit_soft_cap, 30);
  EXPECT_EQ(Good(With(base, {{"final_logit_softcapping", nullptr}})).logit_soft_cap, 0);
  EXPECT_EQ(Good(Base("mistral")).layers[0].attention->window, 4096);
  const json whole = {{"sliding_window", nullptr}};
  EXPECT_EQ(Good(With(Base("mistral"), whole)).layers[0].attention->window, 0);
}

TEST(FamilyConfigTest, WindowsLieWhereTheFamilyPutsThem) {
  const json window = {{"use_sliding_window", true},
                       {"sliding_window", 7},
                       {"max_window_layers", 3},
                       {"shared_expert_intermediate_size", 24}};
  const auto windows = [](const DecoderConfig& decoder) {
    std::string drawn;
    for (const LayerConfig& layer : decoder.layers)
      drawn += layer.attention->window > 0 ? 'x' : '.';
    return drawn;
  };
  EXPECT_EQ(windows(Good(With(Base("qwen2"), window))), "...xxx");
  EXPECT_EQ(windows(Good(With(Moe("qwen2_moe"), window))), "x.x...");
  EXPECT_EQ(windows(Good(With(Moe("qwen3_moe"), window))), "xxxxxx");
}

TEST(FamilyConfigTest, PhisMagnitudesFollowThePromptsLength) {
  const json scaling = {{"type", "longrope"},
                        {"short_factor", {1.0, 1.0, 1.5, 2.0}},
                        {"long_factor", {1.0, 2.0, 4.0, 8.0}},
                        {"short_mscale", 1.25},
                        {"long_mscale", 1.5}};
  const DecoderConfig decoder = Good(
      With(Moe("phimoe"), {{"rope_scaling", scaling}, {"original_max_position_embeddings", 64}}));
  EXPECT_EQ(decoder.ropes[0].scale, 1.25f);
  EXPECT_EQ(decoder.ropes[0].long_scale, 1.5f);
  EXPECT_EQ(decoder.ropes[0].short_context, 64);
  EXPECT_FLOAT_EQ(decoder.ropes[0].long_inv_freq[3] * 4, decoder.ropes[0].inv_freq[3]);
}

TEST(FamilyConfigTest, AnyMoeFamilyMayHaveExpertsWithoutWeights) {
  const json gates = {{"num_constant_experts", 2}, {"num_copy_experts", 1},
                      {"zero_expert_num", 2},      {"num_zero_experts", 1},
                      {"num_null_experts", 3},     {"num_experts_per_tok", 10}};
  for (const char* type : {"mixtral", "olmoe", "qwen3_moe", "granitemoe", "minimax_m2"}) {
    const DecoderConfig decoder = Good(With(Moe(type), gates));
    EXPECT_EQ(decoder.moe.experts, 8) << type;
    EXPECT_EQ(decoder.moe.copies, 3) << type;
    EXPECT_EQ(decoder.moe.gate.idle, 4) << type;
    EXPECT_EQ(decoder.moe.choices(), 17) << type;
    EXPECT_EQ(decoder.moe.gate.top_k, 10) << type;
  }
}

}  // namespace
}  // namespace hostler
