// A sentence encoder that tests write.
#pragma once

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/weights/test_files.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {

// A BERT of random weights, small enough to compute in the plainest way.
struct TinyBert {
  static constexpr int kWidth = 32, kHeads = 2, kLayers = 2, kFfn = 64, kPositions = 24;
  const std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is",
                                          "the",   "sum",   "of",    "two",   "##s",  "and",
                                          "?",     "proof", "a",     "b"};

  TinyBert() {
    const int vocabulary = static_cast<int>(words.size());
    Add("embeddings.word_embeddings.weight", vocabulary, kWidth, 1);
    Add("embeddings.position_embeddings.weight", kPositions, kWidth, 0.3);
    Add("embeddings.token_type_embeddings.weight", 2, kWidth, 0.3);
    AddNorm("embeddings.LayerNorm");
    for (int i = 0; i < kLayers; ++i) {
      const std::string layer = fmt::format("encoder.layer.{}.", i);
      for (const char* name : {"self.query", "self.key", "self.value", "output.dense"}) {
        AddDense(layer + "attention." + name, kWidth, kWidth);
      }
      AddNorm(layer + "attention.output.LayerNorm");
      AddDense(layer + "intermediate.dense", kFfn, kWidth);
      AddDense(layer + "output.dense", kWidth, kFfn);
      AddNorm(layer + "output.LayerNorm");
    }
  }

  nlohmann::json Config() const {
    return {{"model_type", "bert"},          {"hidden_act", "gelu"},
            {"hidden_size", kWidth},         {"num_hidden_layers", kLayers},
            {"num_attention_heads", kHeads}, {"intermediate_size", kFfn},
            {"vocab_size", words.size()},    {"max_position_embeddings", kPositions},
            {"layer_norm_eps", 1e-12}};
  }

  nlohmann::json TokenizerFile() const {
    nlohmann::json vocabulary;
    for (size_t i = 0; i < words.size(); ++i) vocabulary[words[i]] = i;
    const auto special = [](int id, const char* text) {
      return nlohmann::json{
          {"id", id}, {"content", text}, {"special", true}, {"normalized", false}};
    };
    const auto piece = [](const char* text) {
      return nlohmann::json{{"SpecialToken", {{"id", text}}}};
    };
    return {{"added_tokens",
             {special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")}},
            {"normalizer", {{"type", "BertNormalizer"}, {"lowercase", true}}},
            {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
            {"post_processor",
             {{"type", "TemplateProcessing"},
              {"single", {piece("[CLS]"), {{"Sequence", {{"id", "A"}}}}, piece("[SEP]")}},
              {"special_tokens", {{"[CLS]", {{"ids", {2}}}}, {"[SEP]", {{"ids", {3}}}}}}}},
            {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}}},
            {"model",
             {{"type", "WordPiece"},
              {"unk_token", "[UNK]"},
              {"continuing_subword_prefix", "##"},
              {"vocab", vocabulary}}}};
  }

  std::string Safetensors() const {
    nlohmann::json header;
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const size_t bytes = tensor.values.size() * sizeof(float);
      header[name] = {{"dtype", "F32"},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + bytes}}};
      data.append(reinterpret_cast<const char*>(tensor.values.data()), bytes);
    }
    return SafetensorsBytes(header.dump(), data);
  }

  void Write(const TempDir& directory) const {
    directory.Write("config.json", Config().dump());
    directory.Write("tokenizer.json", TokenizerFile().dump());
    directory.Write("model.safetensors", Safetensors());
  }

  struct Tensor {
    std::vector<int> shape;
    std::vector<float> values;
  };
  std::map<std::string, Tensor> tensors;

 private:
  void Add(const std::string& name, int rows, int cols, double scale, double mean = 0) {
    std::normal_distribution<double> normal(mean, scale);
    Tensor tensor;
    tensor.shape = rows == 1 ? std::vector<int>{cols} : std::vector<int>{rows, cols};
    for (int i = 0; i < rows * cols; ++i) {
      tensor.values.push_back(static_cast<float>(normal(random_)));
    }
    tensors[name] = std::move(tensor);
  }
  void AddDense(const std::string& name, int out, int in) {
    Add(name + ".weight", out, in, 1.5 / std::sqrt(in));
    Add(name + ".bias", 1, out, 0.3);
  }
  void AddNorm(const std::string& name) {
    Add(name + ".weight", 1, kWidth, 0.2, 1);
    Add(name + ".bias", 1, kWidth, 0.2);
  }

  std::mt19937 random_{7};
};

}  // namespace hostler
