// A packed model answers as its source does, whatever form its experts had, and
// tells damage from weights.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/base/checksum.h"
#include "engine/compute/interleave.h"
#include "engine/engine/engine.h"
#include "engine/model/pack.h"
#include "engine/model/registry.h"
#include "engine/model/stored_experts.h"
#include "engine/weights/test_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

const fs::path kGolden = fs::path(HOSTLER_SOURCE_DIR) / "../shared/golden";
const std::vector<int32_t> kPrompt = {5, 17, 3, 40, 8, 21, 60, 2, 33, 11, 7, 52};

std::unique_ptr<Engine> Load(const fs::path& model, Quantize quantize = Quantize::kNone,
                             bool precise = false) {
  EngineOptions options;
  options.threads = 2;
  options.memory_bytes = uint64_t{512} << 20;
  options.quantize = quantize;
  options.precise = precise;
  auto engine = Engine::Load(model.string(), options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

std::shared_ptr<GenerateStream> Ask(Engine& engine) {
  GenerateRequest request;
  request.prompt = kPrompt;
  request.sampling.temperature = 0;
  request.ignore_eos = true;
  request.max_tokens = 16;
  auto stream = engine.Submit(request);
  EXPECT_TRUE(stream.ok()) << stream.status();
  return stream.ok() ? *stream : nullptr;
}

std::vector<int32_t> Greedy(Engine& engine) {
  std::vector<int32_t> tokens;
  const auto stream = Ask(engine);
  while (auto event = stream->Pop()) tokens.push_back(event->token_ids[0]);
  return tokens;
}

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void Write(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

// Converts a part of a store's file.
void ConvertPart(std::string* file, uint64_t offset, uint64_t bytes,
                 const std::function<void(const std::byte* in, std::byte* out)>& convert) {
  const std::string in = file->substr(offset, bytes);
  convert(reinterpret_cast<const std::byte*>(in.data()),
          reinterpret_cast<std::byte*>(file->data() + offset));
}

// Turns a store into what packing wrote before it interleaved rows: kernel layout 1.
// Returns whether anything lay otherwise.
bool LayAsRows(const fs::path& store) {
  PackedManifest manifest = *ParsePackedManifest(Contents(store / kPackedManifest), "");
  EXPECT_EQ(manifest.kernel_layout, kPackedInterleaved);
  manifest.kernel_layout = kPackedRows;
  bool changed = false;
  std::string dense = Contents(store / kPackedDense), experts = Contents(store / kPackedExperts);
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    const TensorInfo& tensor = manifest.tensors[i];
    if (!tensor.interleaved) continue;
    changed = true;
    ConvertPart(&dense, tensor.offset, tensor.bytes, [&](const std::byte* in, std::byte* out) {
      DeinterleaveRows(tensor.dtype, tensor.shape[0], tensor.shape[1], in, out);
    });
    manifest.tensor_checksums[i] = Checksum(dense.substr(tensor.offset, tensor.bytes));
  }
  std::vector<uint64_t> sums;
  for (const PackedLayer& layer : manifest.layers) {
    ExpertLayout rows =
        ExpertLayout::Packed(layer.dim, layer.ffn, layer.gate, layer.up, layer.down, layer.biases);
    ExpertLayout panels = rows;
    panels.interleaved = true;
    changed = changed || AnyInterleaves(panels);
    for (int e = 0; e < layer.count; ++e) {
      const uint64_t offset = layer.offset + e * layer.stride;
      ConvertPart(&experts, offset, layer.bytes, [&](const std::byte* in, std::byte* out) {
        ConvertExpert(panels, rows, in, out);
      });
      sums.push_back(Checksum(experts.substr(offset, layer.bytes)));
    }
  }
  Write(store / kPackedDense, dense);
  if (!sums.empty()) {
    const std::string text(reinterpret_cast<const char*>(sums.data()),
                           sums.size() * sizeof(uint64_t));
    Write(store / kPackedExperts, experts);
    Write(store / kPackedChecksums, text);
    for (PackedFile& file : manifest.files) {
      if (file.name == kPackedChecksums) file.checksum = Checksum(text);
    }
  }
  const std::string json = WritePackedManifest(manifest);
  Write(store / kPackedManifest, json);
  Write(store / kPackedManifestSum, ChecksumText(Checksum(json)) + "\n");
  return changed;
}

class PackedModelTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    source_ = name.starts_with("sample") ? fs::path(HOSTLER_SOURCE_DIR) / "models" / name
                                         : kGolden / name;
    if (!fs::exists(source_)) GTEST_SKIP() << "needs " << source_;
    std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::replace(test.begin(), test.end(), '/', '_');
    store_ = fs::path(::testing::TempDir()) / ("packed_" + test + std::to_string(::getpid()));
  }
  void TearDown() override {
    if (!store_.empty()) fs::remove_all(store_);
  }

  void Pack(PackType type) {
    const auto summary =
        PackModel(source_.string(), store_.string(), {.type = type, .replace = true});
    ASSERT_TRUE(summary.ok()) << summary.status();
    EXPECT_EQ(Verify(store_).experts, summary->experts);
  }

  static PackedReport Verify(const fs::path& store) {
    const auto report = VerifyPacked(store.string(), [](uint64_t, uint64_t) { return true; });
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) return {};
    EXPECT_TRUE(report->problems.empty()) << report->problems[0];
    EXPECT_TRUE(CheckPackedModel(store.string()).ok());
    return *report;
  }

  // Packs a store once more; expects the bytes of `as`.
  void ExpectPackedAgainAs(const fs::path& store, const fs::path& as) {
    const fs::path again = store.string() + "_again";
    const auto summary = PackModel(store.string(), again.string(), {});
    ASSERT_TRUE(summary.ok()) << summary.status();
    for (const char* name : {kPackedDense, kPackedExperts, kPackedChecksums}) {
      ASSERT_EQ(fs::exists(as / name), fs::exists(again / name));
      EXPECT_TRUE(Contents(as / name) == Contents(again / name)) << name;
    }
    const auto packed = Load(store), packed_again = Load(again);
    fs::remove_all(again);
    ASSERT_TRUE(packed != nullptr && packed_again != nullptr);
    ExpectSame(*packed, *packed_again);
  }

  void ExpectSame(Engine& a, Engine& b) {
    const auto expected = a.Logits(kPrompt), got = b.Logits(kPrompt);
    ASSERT_TRUE(expected.ok() && got.ok()) << got.status();
    ASSERT_EQ(expected->size(), got->size());
    EXPECT_TRUE(std::all_of(got->begin(), got->end(), [](float x) { return std::isfinite(x); }));
    EXPECT_EQ(std::memcmp(expected->data(), got->data(), got->size() * sizeof(float)), 0);
    EXPECT_EQ(Greedy(a), Greedy(b));
    EXPECT_EQ(a.tokenizer() == nullptr, b.tokenizer() == nullptr);
  }

  fs::path source_, store_;
};

TEST_P(PackedModelTest, KeptAnswersAsItsSource) {
  Pack(PackType::kKeep);
  const auto source = Load(source_), packed = Load(store_);
  ASSERT_TRUE(source != nullptr && packed != nullptr);
  ExpectSame(*source, *packed);
}

TEST_P(PackedModelTest, PackedAsQ8AnswersAsServedInQ8) {
  Pack(PackType::kQ8);
  const auto source = Load(source_, Quantize::kQ8), packed = Load(store_);
  ASSERT_TRUE(source != nullptr && packed != nullptr);
  ExpectSame(*source, *packed);
}

TEST_P(PackedModelTest, KeptAndServedInQ8AnswersAsItsSourceDoes) {
  Pack(PackType::kKeep);
  const auto source = Load(source_, Quantize::kQ8), packed = Load(store_, Quantize::kQ8);
  ASSERT_TRUE(source != nullptr && packed != nullptr);
  ExpectSame(*source, *packed);
}

TEST_P(PackedModelTest, PackedAgainItIsTheSame) {
  Pack(PackType::kQ8);
  ExpectPackedAgainAs(store_, store_);
}

TEST_P(PackedModelTest, RowAfterRowItAnswersTheSame) {
  for (const PackType type : {PackType::kKeep, PackType::kQ8}) {
    Pack(type);
    const fs::path rows = store_.string() + "_rows";
    fs::remove_all(rows);
    fs::copy(store_, rows);
    EXPECT_TRUE(LayAsRows(rows) || type == PackType::kKeep) << "nothing lies interleaved";
    Verify(rows);
    const auto as_rows = Load(rows), packed = Load(store_);
    ASSERT_TRUE(as_rows != nullptr && packed != nullptr);
    ExpectSame(*as_rows, *packed);
    ExpectPackedAgainAs(rows, store_);
    // For kernels that read rows.
    const auto precise = Load(store_, Quantize::kNone, true);
    const auto precise_rows = Load(rows, Quantize::kNone, true);
    fs::remove_all(rows);
    ASSERT_TRUE(precise != nullptr && precise_rows != nullptr);
    ExpectSame(*precise_rows, *precise);
  }
}

TEST_P(PackedModelTest, KeptAndServedPreciselyAnswersAsItsSource) {
  Pack(PackType::kKeep);
  const auto source = Load(source_, Quantize::kNone, true);
  const auto packed = Load(store_, Quantize::kNone, true);
  ASSERT_TRUE(source != nullptr && packed != nullptr);
  ExpectSame(*source, *packed);
}

TEST_P(PackedModelTest, OtherTypesAreServed) {
  for (const PackType type : {PackType::kBF16, PackType::kQ4}) {
    Pack(type);
    const auto packed = Load(store_);
    ASSERT_NE(packed, nullptr);
    EXPECT_EQ(Greedy(*packed).size(), 16u);
  }
}

TEST_P(PackedModelTest, IsDescribedAsItsSource) {
  Pack(PackType::kKeep);
  const auto source = InspectModel(source_.string()), packed = InspectModel(store_.string());
  ASSERT_TRUE(source.ok() && packed.ok()) << packed.status();
  EXPECT_EQ(packed->format, "packed");
  EXPECT_EQ(packed->packed, "keep");
  EXPECT_EQ(packed->packed_from, source->format);
  EXPECT_EQ(packed->architecture, source->architecture);
  EXPECT_EQ(packed->experts, source->experts);
  EXPECT_TRUE(packed->unsupported.empty());
  // A safetensors file's MXFP4 is bytes, each counted as one value.
  if (source_.filename() == "gpt_oss_mxfp4") return;
  EXPECT_EQ(packed->weight_type, source->weight_type);
  EXPECT_EQ(packed->parameters, source->parameters);
  EXPECT_EQ(packed->active_parameters, source->active_parameters);
}

INSTANTIATE_TEST_SUITE_P(Models, PackedModelTest,
                         ::testing::Values("models/deepseek_v3", "models/gpt_oss",
                                           "models/gpt_oss_mxfp4", "models/granitemoe",
                                           "models/llama4_text", "models/qwen2_moe",
                                           "models/qwen3_next", "models/gemma3_text", "models/phi3",
                                           "gguf/models/mixtral.F16.gguf",
                                           "gguf/models/qwen3_moe.Q8_0.gguf", "sample-dense"),
                         [](const auto& info) {
                           std::string name = fs::path(info.param).filename().string();
                           for (char& c : name) {
                             if (!isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

// deepseek_v3 with FP8 projections, as DeepSeek publishes it: no reference has
// them. The values are random.
class Fp8ModelTest : public PackedModelTest {
 protected:
  void SetUp() override {
    PackedModelTest::SetUp();
    if (IsSkipped()) return;
    fp8_ = store_.string() + "_fp8";
    fs::create_directory(fp8_);
    fs::copy(source_ / "config.json", fp8_ / "config.json");
    const auto weights = OpenWeights(source_.string());
    ASSERT_TRUE(weights.ok()) << weights.status();
    for (const TensorInfo& tensor : (*weights)->tensors()) {
      if (tensor.name.find("proj.weight") == std::string::npos) {
        const auto data = (*weights)->Data(tensor);
        const char* type = tensor.dtype == DType::kF32 ? "F32" : "BF16";
        Add(tensor.name, type, tensor.shape,
            {reinterpret_cast<const char*>(data.data()), data.size()});
      } else {
        AddFp8(tensor);
      }
    }
    std::ofstream(fp8_ / "model.safetensors", std::ios::binary)
        << SafetensorsBytes(header_.dump(), data_);
    source_ = fp8_;
  }
  void TearDown() override {
    PackedModelTest::TearDown();
    if (!fp8_.empty()) fs::remove_all(fp8_);
  }

 private:
  void Add(const std::string& name, const char* type, const std::vector<int64_t>& shape,
           std::string_view bytes) {
    header_[name] = {{"dtype", type},
                     {"shape", shape},
                     {"data_offsets", {data_.size(), data_.size() + bytes.size()}}};
    data_ += bytes;
  }
  void AddFp8(const TensorInfo& tensor) {
    const std::vector<int64_t>& shape = tensor.shape;
    std::string bytes(shape[0] * shape[1], '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_() % 0x38 | (random_() % 2) << 7);
    Add(tensor.name, "F8_E4M3", shape, bytes);
    const std::vector<int64_t> blocks = {(shape[0] + 127) / 128, (shape[1] + 127) / 128};
    std::vector<float> scales(blocks[0] * blocks[1]);
    for (float& scale : scales) scale = 0.01f + 0.001f * static_cast<float>(random_() % 64);
    Add(tensor.name + "_scale_inv", "F32", blocks,
        {reinterpret_cast<const char*>(scales.data()), scales.size() * sizeof(float)});
  }

  fs::path fp8_;
  std::mt19937 random_{1};
  nlohmann::json header_;
  std::string data_;
};

TEST_P(Fp8ModelTest, AnswersAsItsSource) {
  for (const auto& [type, quantize] :
       {std::pair{PackType::kKeep, Quantize::kNone}, std::pair{PackType::kQ8, Quantize::kQ8}}) {
    Pack(type);
    const auto source = Load(source_, quantize), packed = Load(store_);
    ASSERT_TRUE(source != nullptr && packed != nullptr);
    ExpectSame(*source, *packed);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Fp8ModelTest, ::testing::Values("models/deepseek_v3"),
                         [](const auto&) { return "deepseek_v3"; });

// A store whose expert 0 of the first layer has one bit turned.
class DamagedExpertTest : public PackedModelTest {
 protected:
  // Done twice, the store is whole again.
  void TurnBit() const {
    std::fstream file(store_ / "experts.bin", std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(100);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(100);
    file.put(byte);
  }

  struct Answer {
    std::vector<int32_t> tokens;
    absl::Status status;
  };
  // Of a request for each token, all at once.
  static std::vector<Answer> AskAtOnce(Engine& engine) {
    std::vector<std::shared_ptr<GenerateStream>> streams;
    for (int32_t token = 0; token < 48; ++token) {
      GenerateRequest request;
      request.prompt = std::vector<int32_t>{token};
      request.sampling.temperature = 0;
      request.ignore_eos = true;
      request.max_tokens = 3;
      auto stream = engine.Submit(request);
      EXPECT_TRUE(stream.ok()) << stream.status();
      if (stream.ok()) streams.push_back(*stream);
    }
    std::vector<Answer> answers;
    for (const auto& stream : streams) {
      Answer& answer = answers.emplace_back();
      while (auto event = stream->Pop()) {
        answer.tokens.insert(answer.tokens.end(), event->token_ids.begin(), event->token_ids.end());
      }
      answer.status = stream->status();
    }
    return answers;
  }
};

TEST_P(DamagedExpertTest, OtherRequestsAnswerAsWithoutItAndAllDoOnceItIsWhole) {
  Pack(PackType::kKeep);
  const std::vector<Answer> expected = AskAtOnce(*Load(store_));
  TurnBit();
  const auto engine = Load(store_);
  ASSERT_NE(engine, nullptr);
  const std::vector<Answer> damaged = AskAtOnce(*engine);
  ASSERT_EQ(damaged.size(), expected.size());
  int failed = 0;
  for (size_t i = 0; i < damaged.size(); ++i) {
    ASSERT_TRUE(expected[i].status.ok()) << expected[i].status;
    if (damaged[i].status.ok()) {
      EXPECT_EQ(damaged[i].tokens, expected[i].tokens) << i;
      continue;
    }
    ++failed;
    EXPECT_TRUE(absl::IsDataLoss(damaged[i].status)) << damaged[i].status;
    EXPECT_THAT(std::string(damaged[i].status.message()),
                AllOf(HasSubstr("experts.bin: layer \"model.layers."), HasSubstr("expert 0 (")));
  }
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, damaged.size());
  const ExpertCacheStats stats = engine->stats().experts;
  EXPECT_GT(stats.read_errors, 0u);
  EXPECT_EQ(stats.read_retries, stats.read_errors) << "each was read once more";
  TurnBit();
  const std::vector<Answer> whole = AskAtOnce(*engine);
  ASSERT_EQ(whole.size(), expected.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(whole[i].status.ok()) << whole[i].status;
    EXPECT_EQ(whole[i].tokens, expected[i].tokens) << i;
  }
}

TEST_P(DamagedExpertTest, FailsOnlyWhatNeededIt) {
  Pack(PackType::kKeep);
  TurnBit();
  const auto engine = Load(store_);
  ASSERT_NE(engine, nullptr);
  // Prompts of one token each: some choose expert 0, others do not.
  int failed = 0, answered = 0;
  for (int32_t token = 0; token < 64; ++token) {
    const auto logits = engine->Logits({token});
    if (logits.ok()) {
      ++answered;
      continue;
    }
    ++failed;
    EXPECT_TRUE(absl::IsDataLoss(logits.status())) << logits.status();
    EXPECT_THAT(std::string(logits.status().message()),
                AllOf(HasSubstr("experts.bin: layer \"model.layers."), HasSubstr("expert 0 ("),
                      HasSubstr("damaged")));
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(answered, 0);
  EXPECT_GE(engine->stats().experts.read_errors, uint64_t(failed));
}

INSTANTIATE_TEST_SUITE_P(Models, DamagedExpertTest,
                         ::testing::Values("gguf/models/qwen3_moe.Q8_0.gguf"),
                         [](const auto&) { return "qwen3_moe"; });

}  // namespace
}  // namespace hostler
