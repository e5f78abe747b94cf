#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/weights/gguf_test_writer.h"
#include "engine/weights/source.h"
#include "engine/weights/test_files.h"

namespace hostler {
namespace {

using ::testing::HasSubstr;

constexpr char kHeader[] = R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})";

std::string SmallGguf() {
  return GgufWriter().AddTensor("g", {3}, 24, "GGG").File();  // I8
}

absl::Status OpenError(const std::string& path) { return OpenWeights(path).status(); }

TEST(OpenWeightsTest, OpensADirectoryAndAFileInIt) {
  TempDir dir;
  const std::string file = dir.Write("model.safetensors", SafetensorsBytes(kHeader, "AAA"));
  for (const std::string& path : {dir.path(), file}) {
    auto source = OpenWeights(path);
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_NE((*source)->Find("a"), nullptr);
  }
}

TEST(OpenWeightsTest, OpensAGgufFileOfAnyNameAndADirectoryWithOne) {
  TempDir dir;
  auto source = OpenWeights(dir.Write("anything", SmallGguf()));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->format(), "gguf");
  EXPECT_NE(dynamic_cast<const GgufSource*>(source->get()), nullptr);

  dir.Write("model.gguf", SmallGguf());
  source = OpenWeights(dir.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_NE((*source)->Find("g"), nullptr);
}

TEST(OpenWeightsTest, OpensADirectoryWithOneSplitModel) {
  TempDir dir;
  for (uint16_t i = 0; i < 2; ++i) {
    GgufWriter part;
    part.Add("split.no", GgufType::kU16, i).Add("split.count", GgufType::kU16, uint16_t{2});
    part.AddTensor(i == 0 ? "t0" : "t1", {1}, 24, "x");
    dir.Write(i == 0 ? "m-00001-of-00002.gguf" : "m-00002-of-00002.gguf", part.File());
  }
  auto source = OpenWeights(dir.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->tensors().size(), 2u);
}

TEST(OpenWeightsTest, PrefersNoneOfSeveralGgufModels) {
  TempDir dir;
  dir.Write("one.gguf", SmallGguf());
  dir.Write("two.gguf", SmallGguf());
  const absl::Status status = OpenError(dir.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("one.gguf"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("two.gguf"));
}

TEST(OpenWeightsTest, SaysWhatItFoundInstead) {
  TempDir dir;
  absl::Status status = OpenError(dir.file("nowhere"));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir.file("nowhere")));

  status = OpenError(dir.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("empty"));

  status = OpenError(dir.Write("notes.txt", "text"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("notes.txt"));

  status = OpenError(dir.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("notes.txt"));
}

}  // namespace
}  // namespace hostler
