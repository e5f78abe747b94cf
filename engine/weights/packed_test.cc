// A packed store is hostile input like any other model: whatever its files say,
// opening it ends in an error that names what is wrong, or in a checked source.
#include "engine/weights/packed.h"

#include <cstring>
#include <functional>
#include <string>

#include "engine/base/checksum.h"
#include "engine/weights/gguf_test_writer.h"
#include "engine/weights/test_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using ::testing::HasSubstr;

constexpr int kExperts = 3;
constexpr uint64_t kExpertBytes = 2 * (3 * 4 * 2);  // bf16, 4 x 2

// A store of two tensors and one layer of three experts.
class PackedTest : public ::testing::Test {
 protected:
  PackedTest() {
    dense_ = std::string(16, '\1') + std::string(48, '\0') + std::string(34, '\2');
    experts_.assign(kExperts * 4096, '\0');
    std::string sums;
    for (int e = 0; e < kExperts; ++e) {
      const std::string expert(kExpertBytes, static_cast<char>('a' + e));
      experts_.replace(e * 4096, kExpertBytes, expert);
      sums += GgufBytes(Checksum(expert));
    }
    checksums_ = sums;
    manifest_.type = "keep";
    manifest_.source_format = "safetensors";
    manifest_.source_hash = std::string(32, '0');
    manifest_.config = {{"model_type", "x"}};
    manifest_.generation = nlohmann::json::object();
    manifest_.tensors = {{"norm", DType::kF32, {4}, 0, 0, 16},
                         {"w", DType::kQ8_0, {1, 32}, 0, 64, 34}};
    manifest_.tensor_checksums = {Checksum(dense_.substr(0, 16)), Checksum(dense_.substr(64))};
    PackedLayer layer;
    layer.name = "layer.";
    layer.count = kExperts;
    layer.dim = 4;
    layer.ffn = 2;
    layer.bytes = kExpertBytes;
    layer.stride = 4096;
    manifest_.layers = {layer};
    manifest_.files = {{kPackedDense, dense_.size(), {}},
                       {kPackedExperts, experts_.size(), {}},
                       {kPackedChecksums, sums.size(), Checksum(sums)}};
  }

  std::string Json() const { return WritePackedManifest(manifest_); }

  // Writes the store with this manifest and opens it.
  absl::StatusOr<std::unique_ptr<PackedSource>> Open(const std::string& json) {
    directory_.Write(kPackedManifest, json);
    directory_.Write(kPackedManifestSum, ChecksumText(Checksum(json)) + "\n");
    directory_.Write(kPackedDense, dense_);
    directory_.Write(kPackedExperts, experts_);
    directory_.Write(kPackedChecksums, checksums_);
    return OpenPacked(directory_.path());
  }

  // The error after one change of the manifest.
  std::string ErrorAfter(const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json json = nlohmann::json::parse(Json());
    change(json);
    const auto source = Open(json.dump());
    return source.ok() ? "no error" : std::string(source.status().message());
  }

  PackedReport Verify() {
    auto report = VerifyPacked(directory_.path(), [](uint64_t, uint64_t) { return true; });
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : PackedReport();
  }

  TempDir directory_;
  std::string dense_, experts_, checksums_;
  PackedManifest manifest_;
};

TEST_F(PackedTest, GivesWhatWasPacked) {
  const auto source = Open(Json());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->format(), "packed");
  const TensorInfo* tensor = (*source)->Find("w");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{1, 32}));
  EXPECT_EQ((*source)->Data(*tensor)[0], std::byte{2});
  EXPECT_EQ((*source)->gguf(), nullptr);
  EXPECT_EQ((*source)->FindLayer("another"), nullptr);
  const PackedLayer* layer = (*source)->FindLayer("layer.");
  ASSERT_NE(layer, nullptr);
  std::string expert(kExpertBytes, 'b');
  EXPECT_TRUE((*source)->CheckExpert(*layer, 1, std::as_bytes(std::span(expert))).ok());
  expert[5] ^= 1;
  const absl::Status damaged = (*source)->CheckExpert(*layer, 1, std::as_bytes(std::span(expert)));
  EXPECT_TRUE(absl::IsDataLoss(damaged));
  EXPECT_THAT(std::string(damaged.message()),
              AllOf(HasSubstr("experts.bin: layer \"layer.\", expert 1 (48 bytes at 4096)")));
}

TEST_F(PackedTest, OpensByItsManifest) {
  ASSERT_TRUE(Open(Json()).ok());
  const auto source = OpenWeights(directory_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->format(), "packed");
}

TEST_F(PackedTest, KeepsGgufMetadata) {
  GgufWriter gguf;
  gguf.Add("general.name", GgufType::kString, "something");
  gguf.AddTensor("t", {4}, 0, std::string(16, 'x'));
  const auto copy = CopyGgufMetadata(directory_.Write("model.gguf", gguf.File()));
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(*copy, GgufWriter().Add("general.name", GgufType::kString, "something").File());
  directory_.Write(kPackedGguf, *copy);
  manifest_.files.push_back({kPackedGguf, copy->size(), Checksum(*copy)});
  const auto source = Open(Json());
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_NE((*source)->gguf(), nullptr);
  EXPECT_EQ(*(*source)->gguf()->GetString("general.name"), "something");
}

TEST_F(PackedTest, RefusesAManifestThatDoesNotFitTogether) {
  const auto expect = [&](const char* error, const std::function<void(nlohmann::json&)>& change) {
    EXPECT_THAT(ErrorAfter(change), AllOf(HasSubstr("manifest.json: "), HasSubstr(error)));
  };
  using J = nlohmann::json;
  expect("not a packed store's", [](J& j) { j["format"] = "other"; });
  expect("version 2 with kernel layout 2", [](J& j) { j["version"] = 2; });
  for (const int layout : {0, 3}) {
    expect("reads version 1 with kernel layouts 1 and 2",
           [&](J& j) { j["kernel_layout"] = layout; });
  }
  expect("\"kernel_layout\" must be a whole number", [](J& j) { j["kernel_layout"] = "2"; });
  expect("type \"q9\"", [](J& j) { j["type"] = "q9"; });
  expect("\"source\" is missing", [](J& j) { j.erase("source"); });
  expect("\"config\" must be of type object", [](J& j) { j["config"] = 3; });
  expect("file \"../x\": not the name", [](J& j) { j["files"][2]["name"] = "../x"; });
  expect("file \"dense.bin\": occurs twice", [](J& j) { j["files"][1]["name"] = "dense.bin"; });
  expect("\"bytes\" must be a whole number", [](J& j) { j["files"][0]["bytes"] = -1; });
  expect("is no checksum", [](J& j) { j["files"][2]["xxh3"] = "xyz"; });
  expect("\"files\" has no dense.bin", [](J& j) { j["files"].erase(0); });
  expect("tensor \"norm\": 16 bytes are not what [5] of f32 takes",
         [](J& j) { j["tensors"][0]["shape"] = {5}; });
  expect("tensor \"norm\": shape overflows", [](J& j) {
    j["tensors"][0]["shape"] = {uint64_t{1} << 62, uint64_t{1} << 62, 1};
  });
  expect("a dimension is not a size", [](J& j) { j["tensors"][0]["shape"] = {-4}; });
  expect("there is no type \"f33\"", [](J& j) { j["tensors"][0]["type"] = "f33"; });
  expect("34 bytes are not what [1, 31]", [](J& j) { j["tensors"][1]["shape"] = {1, 31}; });
  expect("tensor \"w\": its 34 bytes at 128 go past the end of dense.bin",
         [](J& j) { j["tensors"][1]["offset"] = 128; });
  expect("its offset 65 is not a multiple of 64", [](J& j) { j["tensors"][1]["offset"] = 65; });
  expect("tensor \"w\": begins at 0, within", [](J& j) { j["tensors"][1]["offset"] = 0; });
  expect("tensor \"norm\": occurs twice", [](J& j) { j["tensors"][1]["name"] = "norm"; });
  expect("expert layer \"layer.\": 48 bytes are not what its types and sizes take, 96",
         [](J& j) { j["expert_layers"][0]["dim"] = 8; });
  expect("experts cannot be of type i8", [](J& j) { j["expert_layers"][0]["gate"] = "i8"; });
  expect("rows of 4 are not whole blocks", [](J& j) { j["expert_layers"][0]["up"] = "q8_0"; });
  expect("its stride 100 is not", [](J& j) { j["expert_layers"][0]["stride"] = 100; });
  expect("\"count\" is 0, must be from 1", [](J& j) { j["expert_layers"][0]["count"] = 0; });
  expect("go past the end of experts.bin", [](J& j) { j["expert_layers"][0]["count"] = 4; });
  expect("go past the end of experts.bin", [](J& j) { j["expert_layers"][0]["offset"] = 4096; });
  expect("its size overflows", [](J& j) { j["expert_layers"][0]["stride"] = (uint64_t{1} << 62); });
  expect("checksums.bin has 24 bytes; 6 experts have 48", [](J& j) {
    J second = j["expert_layers"][0];
    second["name"] = "second.";
    second["offset"] = 3 * 4096;
    j["expert_layers"].push_back(second);
    j["files"][1]["bytes"] = 6 * 4096;
  });
  expect("begins at 4096, within", [](J& j) {
    J second = j["expert_layers"][0];
    second["name"] = "second.";
    second["offset"] = 4096;
    j["expert_layers"].push_back(second);
  });
}

TEST_F(PackedTest, TheKernelLayoutSaysWhichTensorsLieInterleaved) {
  const auto interleaved = [&](int layout, const std::vector<int64_t>& shape) {
    manifest_.kernel_layout = layout;
    manifest_.tensors[1] = {"w", DType::kQ8_0, shape, 0, 64, 34};
    for (const int64_t n : shape) manifest_.tensors[1].bytes *= n;
    manifest_.tensors[1].bytes /= 32;
    manifest_.files[0].bytes = 64 + manifest_.tensors[1].bytes;
    const auto manifest = ParsePackedManifest(Json(), "manifest.json");
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->interleaved(), layout == kPackedInterleaved);
    EXPECT_FALSE(manifest->tensors[0].interleaved);
    return manifest->tensors[1].interleaved;
  };
  EXPECT_TRUE(interleaved(kPackedInterleaved, {16, 32}));
  EXPECT_TRUE(interleaved(kPackedInterleaved, {33, 64}));
  EXPECT_FALSE(interleaved(kPackedInterleaved, {15, 32}));
  EXPECT_FALSE(interleaved(kPackedInterleaved, {16, 1, 32}));
  EXPECT_FALSE(interleaved(kPackedInterleaved, {512}));
  EXPECT_FALSE(interleaved(kPackedRows, {16, 32}));
}

TEST_F(PackedTest, SurvivesEveryWrongKindOfValue) {
  const nlohmann::json good = nlohmann::json::parse(Json());
  const nlohmann::json flat = good.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    const auto parse_with = [&](const nlohmann::json& other) {
      nlohmann::json json = good;
      json[nlohmann::json::json_pointer(pointer)] = other;
      return ParsePackedManifest(json.dump(), "manifest.json").status();
    };
    for (const nlohmann::json& other :
         {nlohmann::json(-1), nlohmann::json(1e300), nlohmann::json("x"),
          nlohmann::json::array({1}), nlohmann::json::object(), nlohmann::json(UINT64_MAX)}) {
      (void)parse_with(other);
    }
    if (!pointer.starts_with("/config/")) {
      EXPECT_FALSE(parse_with(nullptr).ok()) << pointer;
    }
  }
}

TEST_F(PackedTest, RefusesWhatIsNoJsonOrNestedTooDeep) {
  EXPECT_THAT(std::string(Open("{\"format\"").status().message()), HasSubstr("not valid JSON"));
  const std::string deep(1'000'000, '[');
  EXPECT_THAT(std::string(Open(deep).status().message()), HasSubstr("nested more than 64 deep"));
  // Brackets in strings do not nest.
  manifest_.config["text"] = std::string(100, '[') + "\\\"" + std::string(100, '{');
  EXPECT_TRUE(Open(Json()).ok());
}

TEST_F(PackedTest, TellsAFileThatIsNotAsItWasPacked) {
  const std::string json = Json();
  ASSERT_TRUE(Open(json).ok());
  const auto error = [&] {
    const absl::Status status = OpenPacked(directory_.path()).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    return std::string(status.message());
  };
  directory_.Write(kPackedDense, dense_ + "x");
  EXPECT_THAT(error(), HasSubstr("dense.bin: not as it was packed: it has 99 bytes, 98 were"));
  directory_.Write(kPackedDense, dense_);
  directory_.Write(kPackedExperts, experts_.substr(1));
  EXPECT_THAT(error(), HasSubstr("experts.bin: not as it was packed: it has 12287 bytes"));
  directory_.Write(kPackedExperts, experts_);
  std::string sums = checksums_;
  sums[3] ^= 1;
  directory_.Write(kPackedChecksums, sums);
  EXPECT_THAT(error(), HasSubstr("checksums.bin: not as it was packed: its checksum is"));
  std::filesystem::remove(directory_.file(kPackedChecksums));
  EXPECT_THAT(error(), HasSubstr("checksums.bin: not as it was packed: No such file"));
  directory_.Write(kPackedChecksums, checksums_);
  std::string changed = json;
  changed.replace(changed.find("model_type"), 5, "medel");
  directory_.Write(kPackedManifest, changed);
  EXPECT_THAT(error(), HasSubstr("manifest.json: not as it was packed: its checksum"));
}

TEST_F(PackedTest, VerifyNamesEveryDamagedPlace) {
  ASSERT_TRUE(Open(Json()).ok());
  PackedReport report = Verify();
  EXPECT_TRUE(report.problems.empty());
  EXPECT_EQ(report.tensors, 2);
  EXPECT_EQ(report.experts, kExperts);
  EXPECT_EQ(report.files, 3);

  dense_[70] ^= 4;
  experts_[2 * 4096 + 47] ^= 1;
  ASSERT_TRUE(Open(Json()).ok()) << "sizes are right";
  report = Verify();
  ASSERT_EQ(report.problems.size(), 2u);
  EXPECT_THAT(report.problems[0], HasSubstr("dense.bin: tensor \"w\" (34 bytes at 64) is damaged"));
  EXPECT_THAT(report.problems[1],
              HasSubstr("experts.bin: layer \"layer.\", expert 2 (48 bytes at 8192) is damaged"));
}

TEST_F(PackedTest, VerifyTellsWhatIsNoStore) {
  const auto verify = [&] {
    return VerifyPacked(directory_.path(), [](uint64_t, uint64_t) { return true; }).status();
  };
  EXPECT_TRUE(absl::IsFailedPrecondition(verify()));
  EXPECT_THAT(std::string(verify().message()), HasSubstr("no packed store"));
  ASSERT_TRUE(Open(Json()).ok());
  EXPECT_TRUE(absl::IsCancelled(
      VerifyPacked(directory_.path(), [](uint64_t, uint64_t) { return false; }).status()));
}

}  // namespace
}  // namespace hostler
