#include "engine/embed/encoder.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "engine/embed/tiny_bert.h"
#include "engine/weights/test_files.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

using Rows = std::vector<std::vector<double>>;

struct ReferenceOps {
  const TinyBert& bert;

  double At(const std::string& name, size_t i) const { return bert.tensors.at(name).values[i]; }

  Rows Dense(const Rows& x, const std::string& name) const {
    const TinyBert::Tensor& w = bert.tensors.at(name + ".weight");
    Rows y;
    for (const auto& row : x) {
      std::vector<double> out;
      for (int o = 0; o < w.shape[0]; ++o) {
        double sum = At(name + ".bias", o);
        for (int i = 0; i < w.shape[1]; ++i) sum += w.values[o * w.shape[1] + i] * row[i];
        out.push_back(sum);
      }
      y.push_back(out);
    }
    return y;
  }

  void AddAndNorm(const Rows& y, const std::string& name, Rows* x) const {
    for (size_t t = 0; t < x->size(); ++t) {
      std::vector<double>& row = (*x)[t];
      double mean = 0, variance = 0;
      for (size_t i = 0; i < row.size(); ++i) row[i] += y.empty() ? 0 : y[t][i];
      for (double v : row) mean += v / row.size();
      for (double v : row) variance += (v - mean) * (v - mean) / row.size();
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) / std::sqrt(variance + 1e-12) * At(name + ".weight", i) +
                 At(name + ".bias", i);
      }
    }
  }

  Rows Attend(const Rows& q, const Rows& k, const Rows& v) const {
    constexpr int kHeadWidth = TinyBert::kWidth / TinyBert::kHeads;
    Rows out(q.size(), std::vector<double>(TinyBert::kWidth));
    for (int first = 0; first < TinyBert::kWidth; first += kHeadWidth) {
      for (size_t t = 0; t < q.size(); ++t) {
        std::vector<double> weights;
        double sum = 0;
        for (const auto& key : k) {
          double score = 0;
          for (int i = first; i < first + kHeadWidth; ++i) score += q[t][i] * key[i];
          weights.push_back(std::exp(score / std::sqrt(kHeadWidth)));
          sum += weights.back();
        }
        for (size_t s = 0; s < v.size(); ++s) {
          for (int i = first; i < first + kHeadWidth; ++i) out[t][i] += weights[s] / sum * v[s][i];
        }
      }
    }
    return out;
  }
};

// [CLS] ids [SEP] → the embedding, in double.
std::vector<double> Reference(const TinyBert& bert, std::vector<int> ids) {
  constexpr int kWidth = TinyBert::kWidth;
  const ReferenceOps ops{bert};
  ids.insert(ids.begin(), 2);
  ids.push_back(3);
  Rows x(ids.size(), std::vector<double>(kWidth));
  for (size_t t = 0; t < ids.size(); ++t) {
    for (int i = 0; i < kWidth; ++i) {
      x[t][i] = ops.At("embeddings.word_embeddings.weight", ids[t] * kWidth + i) +
                ops.At("embeddings.position_embeddings.weight", t * kWidth + i) +
                ops.At("embeddings.token_type_embeddings.weight", i);
    }
  }
  ops.AddAndNorm({}, "embeddings.LayerNorm", &x);
  for (int l = 0; l < TinyBert::kLayers; ++l) {
    const std::string layer = fmt::format("encoder.layer.{}.", l), at = layer + "attention.";
    const Rows attended = ops.Attend(ops.Dense(x, at + "self.query"), ops.Dense(x, at + "self.key"),
                                     ops.Dense(x, at + "self.value"));
    ops.AddAndNorm(ops.Dense(attended, at + "output.dense"), at + "output.LayerNorm", &x);
    Rows hidden = ops.Dense(x, layer + "intermediate.dense");
    for (auto& row : hidden) {
      for (double& v : row) v *= 0.5 * std::erfc(-v * M_SQRT1_2);
    }
    ops.AddAndNorm(ops.Dense(hidden, layer + "output.dense"), layer + "output.LayerNorm", &x);
  }
  std::vector<double> mean(kWidth);
  double squares = 0;
  for (int i = 0; i < kWidth; ++i) {
    for (const auto& row : x) mean[i] += row[i] / x.size();
    squares += mean[i] * mean[i];
  }
  for (double& v : mean) v /= std::sqrt(squares);
  return mean;
}

template <typename Values>
double Cosine(const std::vector<float>& a, const Values& b) {
  double product = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double(b[i]) * b[i];
  }
  return product / std::sqrt(aa * bb);
}

std::unique_ptr<Encoder> LoadOrDie(const std::string& path, const EncoderOptions& options = {}) {
  auto encoder = Encoder::Load(path, options);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return encoder.ok() ? *std::move(encoder) : nullptr;
}

std::vector<float> Embed(Encoder& encoder, std::string_view text) {
  std::vector<float> out(static_cast<size_t>(encoder.dimensions()));
  const absl::Status status = encoder.Encode(text, out);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

class EncoderTest : public ::testing::Test {
 protected:
  EncoderTest() { bert_.Write(directory_); }

  std::unique_ptr<Encoder> Load(const EncoderOptions& options = {}) {
    return LoadOrDie(directory_.path(), options);
  }
  // Why it cannot be loaded.
  std::string Failure(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto encoder = Encoder::Load(directory_.path());
    EXPECT_EQ(encoder.status().code(), code) << encoder.status();
    return std::string(encoder.status().message());
  }
  std::string FailureOfConfig(const std::string& key, const json& value,
                              absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    json config = bert_.Config();
    config[key] = value;
    directory_.Write("config.json", config.dump());
    return Failure(code);
  }

  TinyBert bert_;
  TempDir directory_;
};

TEST_F(EncoderTest, ComputesBertsMeanOfHiddenStates) {
  const std::vector<std::pair<std::string, std::vector<int>>> texts = {
      {"", {}},
      {"the", {6}},
      {"What is THE sum of a and twos?", {4, 5, 6, 7, 8, 14, 11, 9, 10, 12}},
      {"proof nonsense b b b b b b b b b b b b b b b b",
       {13, 1, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15}},
  };
  for (const bool exact : {true, false}) {
    const auto encoder = Load({.exact = exact});
    for (const auto& [text, ids] : texts) {
      const std::vector<float> embedding = Embed(*encoder, text);
      EXPECT_GT(Cosine(embedding, Reference(bert_, ids)), exact ? 1 - 1e-9 : 0.999) << text;
      EXPECT_NEAR(Cosine(embedding, embedding), 1, 1e-9);
      double squares = 0;
      for (float v : embedding) squares += double{v} * v;
      EXPECT_NEAR(squares, 1, 1e-5);
    }
  }
}

TEST_F(EncoderTest, GivesATextTheSameEmbeddingInAnyBatchWithAnyThreads) {
  std::vector<std::string> texts;
  for (int i = 0; i < 90; ++i) {
    texts.emplace_back("what");
    for (int j = 0; j < i % 20; ++j) texts.back() += " " + bert_.words[4 + (i * j) % 12];
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  for (const bool exact : {true, false}) {
    const auto one = Load({.threads = 1, .exact = exact});
    const auto two = Load({.threads = 2, .exact = exact});
    const size_t width = static_cast<size_t>(one->dimensions());
    std::vector<float> together(texts.size() * width);
    ASSERT_TRUE(two->Encode(views, together).ok());
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::vector<float> alone = Embed(*one, texts[i]);
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + i * width)) << i;
    }
  }
}

TEST_F(EncoderTest, ServesManyThreadsAtOnce) {
  const auto encoder = Load();
  std::vector<std::string> texts;
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < 8; ++i) {
    texts.push_back("sum of" + std::string(static_cast<size_t>(i), 'a'));
    for (int j = 0; j < i; ++j) texts.back() += " two";
    expected.push_back(Embed(*encoder, texts.back()));
  }
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        if (Embed(*encoder, texts[i]) != expected[i]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(EncoderTest, CutsTextsAtTheLengthOfTheModelOrTheOption) {
  directory_.Write("sentence_bert_config.json", R"({"max_seq_length": 10})");
  const std::string eight = "a b a b sum of two and";
  const auto by_file = Load();
  EXPECT_EQ(by_file->max_tokens(), 10);
  EXPECT_EQ(Embed(*by_file, eight + " proof proof"), Embed(*by_file, eight));
  EXPECT_NE(Embed(*by_file, "a b a b sum of two"), Embed(*by_file, eight));
  const auto by_option = Load({.max_tokens = 5});
  EXPECT_EQ(Embed(*by_option, eight), Embed(*by_option, "a b a"));
  EXPECT_EQ(Load({.max_tokens = 1000})->max_tokens(), 10);
}

// Of which only the beginning is looked at.
TEST_F(EncoderTest, CutsVeryLongTextsWhereShortOnesAreCut) {
  const auto encoder = Load({.max_tokens = 12});
  std::string spaced, unspaced;
  for (int i = 0; i < 200'000; ++i) spaced += i % 3 == 0 ? "a " : "proof ";
  for (int i = 0; i < 200'000; ++i) unspaced += i % 3 == 0 ? "?" : "a";
  EXPECT_EQ(Embed(*encoder, spaced), Embed(*encoder, spaced.substr(0, 500)));
  EXPECT_EQ(Embed(*encoder, unspaced), Embed(*encoder, unspaced.substr(0, 500)));
  const std::string one_word(1'000'000, 'a');
  EXPECT_EQ(Embed(*encoder, one_word), Embed(*encoder, "zzz")) << "unknown";
}

TEST_F(EncoderTest, FingerprintNamesWeightsAndTokenizer) {
  const std::string as_it_was = Load()->fingerprint();
  EXPECT_EQ(Load({.threads = 1, .max_tokens = 5})->fingerprint(), as_it_was);
  json tokenizer = bert_.TokenizerFile();
  tokenizer["normalizer"]["lowercase"] = false;
  directory_.Write("tokenizer.json", tokenizer.dump());
  const std::string other_tokenizer = Load()->fingerprint();
  EXPECT_NE(other_tokenizer, as_it_was);
  bert_.tensors["embeddings.LayerNorm.bias"].values[3] += 1;
  directory_.Write("model.safetensors", bert_.Safetensors());
  EXPECT_NE(Load()->fingerprint(), other_tokenizer);
}

TEST_F(EncoderTest, RefusesOutputsOfAnotherSize) {
  const auto encoder = Load();
  std::vector<float> out(31);
  EXPECT_EQ(encoder->Encode("a", out).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EncoderTest, RefusesConfigurationsItCannotCompute) {
  using enum absl::StatusCode;
  EXPECT_THAT(FailureOfConfig("model_type", "roberta", kUnimplemented), HasSubstr("\"roberta\""));
  EXPECT_THAT(FailureOfConfig("hidden_act", "relu", kUnimplemented), HasSubstr("hidden_act"));
  EXPECT_THAT(FailureOfConfig("position_embedding_type", "relative_key", kUnimplemented),
              HasSubstr("position_embedding_type"));
  EXPECT_THAT(FailureOfConfig("model_type", nullptr), HasSubstr("model_type"));
  EXPECT_THAT(FailureOfConfig("hidden_size", -1), HasSubstr("hidden_size"));
  EXPECT_THAT(FailureOfConfig("hidden_size", uint64_t{1} << 63), HasSubstr("hidden_size"));
  EXPECT_THAT(FailureOfConfig("hidden_size", "32"), HasSubstr("hidden_size"));
  EXPECT_THAT(FailureOfConfig("num_attention_heads", 0), HasSubstr("num_attention_heads"));
  EXPECT_THAT(FailureOfConfig("num_attention_heads", 3), HasSubstr("does not divide"));
  EXPECT_THAT(FailureOfConfig("num_hidden_layers", 1'000'000), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(FailureOfConfig("num_hidden_layers", 3), HasSubstr("encoder.layer.2."));
  EXPECT_THAT(FailureOfConfig("intermediate_size", 96), HasSubstr("intermediate.dense"));
  EXPECT_THAT(FailureOfConfig("max_position_embeddings", 25), HasSubstr("position_embeddings"));
  EXPECT_THAT(FailureOfConfig("vocab_size", 17), HasSubstr("word_embeddings"));
  EXPECT_THAT(FailureOfConfig("vocab_size", 15), HasSubstr("vocabulary of 15"));
  EXPECT_THAT(FailureOfConfig("layer_norm_eps", -1), HasSubstr("layer_norm_eps"));
  directory_.Write("config.json", "[]");
  EXPECT_THAT(Failure(), HasSubstr("model_type"));
  directory_.Write("config.json", "{");
  Failure();
  std::filesystem::remove(directory_.file("config.json"));
  Failure(kNotFound);
}

TEST_F(EncoderTest, RefusesOtherModulesAndPoolings) {
  using enum absl::StatusCode;
  const auto module = [](const char* name) {
    return json{{"type", fmt::format("sentence_transformers.models.{}", name)}};
  };
  const json usual = {module("Transformer"), module("Pooling"), module("Normalize")};
  directory_.Write("modules.json", usual.dump());
  Load();
  directory_.Write("modules.json", json{module("Transformer"), module("Dense")}.dump());
  EXPECT_THAT(Failure(kUnimplemented), HasSubstr("Dense"));
  directory_.Write("modules.json", R"({"a": 1})");
  EXPECT_THAT(Failure(), HasSubstr("modules.json"));
  directory_.Write("modules.json", usual.dump());

  std::filesystem::create_directory(directory_.file("1_Pooling"));
  directory_.Write("1_Pooling/config.json",
                   R"({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false})");
  Load();
  directory_.Write("1_Pooling/config.json",
                   R"({"pooling_mode_mean_tokens": false, "pooling_mode_cls_token": true})");
  EXPECT_THAT(Failure(kUnimplemented), HasSubstr("pooling_mode_mean_tokens"));
  directory_.Write("1_Pooling/config.json", "{}");

  directory_.Write("sentence_bert_config.json", R"({"max_seq_length": 25})");
  EXPECT_THAT(Failure(), HasSubstr("max_seq_length"));
  directory_.Write("sentence_bert_config.json", R"({"do_lower_case": true})");
  EXPECT_THAT(Failure(), HasSubstr("do_lower_case"));
}

TEST_F(EncoderTest, RefusesTensorsThatAreMissingOrOfAnotherShape) {
  for (const auto& [name, tensor] : bert_.tensors) {
    TinyBert without = bert_;
    without.tensors.erase(name);
    directory_.Write("model.safetensors", without.Safetensors());
    EXPECT_THAT(Failure(), HasSubstr(name));
    TinyBert shorter = bert_;
    TinyBert::Tensor& other = shorter.tensors[name];
    other.shape.back() -= 1;
    int values = 1;
    for (int n : other.shape) values *= n;
    other.values.resize(static_cast<size_t>(values));
    directory_.Write("model.safetensors", shorter.Safetensors());
    EXPECT_THAT(Failure(), HasSubstr(name));
  }
}

TEST_F(EncoderTest, RefusesTruncatedFiles) {
  for (const char* name : {"model.safetensors", "tokenizer.json", "config.json"}) {
    const std::string path = directory_.file(name);
    std::ifstream file(path, std::ios::binary);
    const std::string whole{std::istreambuf_iterator<char>(file), {}};
    for (size_t i = 0; i < 40; ++i) {
      directory_.Write(name, whole.substr(0, whole.size() * i / 40));
      EXPECT_FALSE(Encoder::Load(directory_.path()).ok()) << name << ", part " << i;
    }
    directory_.Write(name, whole);
  }
  Load();
}

// What still loads gives unit vectors or an error.
TEST_F(EncoderTest, SurvivesFlippedBits) {
  std::mt19937 random(3);
  int loaded = 0;
  for (const char* name : {"model.safetensors", "tokenizer.json", "config.json"}) {
    const std::string path = directory_.file(name);
    std::ifstream file(path, std::ios::binary);
    const std::string whole{std::istreambuf_iterator<char>(file), {}};
    for (int i = 0; i < 150; ++i) {
      std::string flipped = whole;
      // Half of them in the header.
      const size_t within = i % 2 == 0 ? std::min<size_t>(whole.size(), 3000) : whole.size();
      flipped[random() % within] ^= static_cast<char>(1 << random() % 8);
      directory_.Write(name, flipped);
      const auto encoder = Encoder::Load(directory_.path(), {.threads = 1});
      if (!encoder.ok()) continue;
      ++loaded;
      std::vector<float> out(static_cast<size_t>((*encoder)->dimensions()));
      if (!(*encoder)->Encode("what is the sum of twos?", out).ok()) continue;
      double squares = 0;
      for (float v : out) squares += double{v} * v;
      EXPECT_NEAR(squares, 1, 1e-5);
    }
    directory_.Write(name, whole);
  }
  EXPECT_GT(loaded, 50);
}

TEST_F(EncoderTest, WeightsThatAreNoNumbersGiveAnError) {
  bert_.tensors["encoder.layer.1.output.LayerNorm.bias"].values[5] = NAN;
  directory_.Write("model.safetensors", bert_.Safetensors());
  const auto encoder = Load();
  std::vector<float> out(32);
  EXPECT_EQ(encoder->Encode("a", out).code(), absl::StatusCode::kDataLoss);
}

// all-MiniLM-L6-v2 as testdata/make_golden.py computes it, if its directory is given.
TEST(MiniLmTest, AgreesWithAnotherImplementation) {
  const char* path = std::getenv("HOSTLER_MINILM");
  if (path == nullptr) GTEST_SKIP() << "HOSTLER_MINILM names no directory of the model";
  std::ifstream file(HOSTLER_SOURCE_DIR "/engine/embed/testdata/minilm.json");
  const json cases = json::parse(file);
  for (const bool exact : {true, false}) {
    const auto encoder = LoadOrDie(path, {.exact = exact});
    ASSERT_NE(encoder, nullptr);
    for (const json& expected : cases) {
      const std::string text = expected["text"];
      const std::vector<int> values = expected["values"];
      ASSERT_EQ(values.size(), static_cast<size_t>(encoder->dimensions()));
      // Stored with four digits after the point.
      EXPECT_GT(Cosine(Embed(*encoder, text), values), exact ? 0.999999 : 0.9995) << text;
    }
  }
}

}  // namespace
}  // namespace hostler
