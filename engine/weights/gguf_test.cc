#include "engine/weights/gguf.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "engine/weights/gguf_test_writer.h"
#include "engine/weights/test_files.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kF32 = 0, kQ8_0 = 8, kQ4_K = 12, kI8 = 24;

absl::StatusOr<GgufHeader> ParseBytes(const std::string& file) {
  return ParseGguf(std::as_bytes(std::span(file)), "dir/file.gguf");
}

std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(GgufTest, ReadsTensorsWithTheOutermostDimensionFirst) {
  for (uint32_t version : {2, 3}) {
    GgufWriter writer;
    writer.version = version;
    writer.AddTensor("a", {32, 3}, kQ8_0, std::string(3 * 34, 'a'))
        .AddTensor("b", {256, 2, 1, 5}, kQ4_K, std::string(10 * 144, 'b'))
        .AddTensor("scalar", {}, kF32, "1234")
        .AddTensor("empty", {7, 0}, kF32, "");
    const std::string file = writer.File();
    auto header = ParseBytes(file);
    ASSERT_TRUE(header.ok()) << header.status();
    ASSERT_EQ(header->tensors.size(), 4u);
    const TensorInfo& a = header->tensors[0];
    EXPECT_EQ(a.name, "a");
    EXPECT_EQ(a.dtype, DType::kQ8_0);
    EXPECT_THAT(a.shape, ElementsAre(3, 32));
    EXPECT_EQ(a.bytes, 102u);
    EXPECT_EQ(file.substr(a.offset, a.bytes), std::string(102, 'a'));
    const TensorInfo& b = header->tensors[1];
    EXPECT_THAT(b.shape, ElementsAre(5, 1, 2, 256));
    EXPECT_EQ(file.substr(b.offset, b.bytes), std::string(1440, 'b'));
    for (const TensorInfo& tensor : header->tensors) EXPECT_EQ(tensor.offset % 32, 0u);
  }
}

TEST(GgufTest, HonoursTheFilesAlignment) {
  GgufWriter writer;
  writer.alignment = 1024;
  writer.Add("general.alignment", GgufType::kU32, uint32_t{1024});
  writer.AddTensor("a", {3}, kI8, "AAA").AddTensor("b", {3}, kI8, "BBB");
  const std::string file = writer.File();
  auto header = ParseBytes(file);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[0].offset, 1024u);
  EXPECT_EQ(header->tensors[1].offset, 2048u);
  EXPECT_EQ(file.substr(2048, 3), "BBB");
}

TEST(GgufTest, ReadsEveryTypeThatIsAWeight) {
  const std::vector<std::pair<uint32_t, DType>> types = {
      {0, DType::kF32},     {1, DType::kF16},     {2, DType::kQ4_0},  {3, DType::kQ4_1},
      {6, DType::kQ5_0},    {7, DType::kQ5_1},    {8, DType::kQ8_0},  {10, DType::kQ2_K},
      {11, DType::kQ3_K},   {12, DType::kQ4_K},   {13, DType::kQ5_K}, {14, DType::kQ6_K},
      {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}, {30, DType::kBF16}, {39, DType::kMXFP4},
      {34, DType::kTQ1_0},  {35, DType::kTQ2_0},
  };
  for (const auto& [number, dtype] : types) {
    const std::string bytes(RowBytes(dtype, 256), 'd');
    auto header = ParseBytes(GgufWriter().AddTensor("t", {256}, number, bytes).File());
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->tensors[0].dtype, dtype);
    EXPECT_EQ(header->tensors[0].bytes, bytes.size());
  }
}

TEST(GgufMetadataTest, ReadsValuesOfEveryType) {
  GgufWriter writer;
  writer.Add("u8", GgufType::kU8, uint8_t{200})
      .Add("i8", GgufType::kI8, int8_t{-5})
      .Add("u16", GgufType::kU16, uint16_t{60000})
      .Add("i16", GgufType::kI16, int16_t{-300})
      .Add("u32", GgufType::kU32, uint32_t{4000000000})
      .Add("i32", GgufType::kI32, int32_t{-70000})
      .Add("u64", GgufType::kU64, uint64_t{1} << 62)
      .Add("i64", GgufType::kI64, int64_t{INT64_MIN})
      .Add("f32", GgufType::kF32, 0.5f)
      .Add("f64", GgufType::kF64, 1e-300)
      .Add("bool", GgufType::kBool, uint8_t{1})
      .Add("string", GgufType::kString, std::string("a\0b", 3));
  auto header = ParseBytes(writer.File());
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& m = header->metadata;
  EXPECT_EQ(*m.GetInt("u8"), 200);
  EXPECT_EQ(*m.GetInt("i8"), -5);
  EXPECT_EQ(*m.GetInt("u16"), 60000);
  EXPECT_EQ(*m.GetInt("i16"), -300);
  EXPECT_EQ(*m.GetInt("u32"), 4000000000);
  EXPECT_EQ(*m.GetInt("i32"), -70000);
  EXPECT_EQ(*m.GetInt("u64"), int64_t{1} << 62);
  EXPECT_EQ(*m.GetInt("i64"), INT64_MIN);
  EXPECT_EQ(*m.GetFloat("f32"), 0.5);
  EXPECT_EQ(*m.GetFloat("f64"), 1e-300);
  EXPECT_EQ(*m.GetFloat("i8"), -5.0);
  EXPECT_EQ(*m.GetBool("bool"), true);
  EXPECT_EQ(*m.GetString("string"), std::string_view("a\0b", 3));
}

TEST(GgufMetadataTest, ReadsListsAndTakesOneValueForAListOfOne) {
  GgufWriter writer;
  writer.AddList<int32_t>("ints", GgufType::kI32, {3, -4})
      .AddList<float>("floats", GgufType::kF32, {0.5f, 2})
      .AddList<uint8_t>("bools", GgufType::kBool, {0, 1, 1})
      .AddList<std::string>("strings", GgufType::kString, {"x", "", "yz"})
      .AddList<uint64_t>("none", GgufType::kU64, {})
      .Add("one", GgufType::kU32, uint32_t{7});
  auto header = ParseBytes(writer.File());
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& m = header->metadata;
  EXPECT_THAT(*m.GetInts("ints"), ElementsAre(3, -4));
  EXPECT_THAT(*m.GetFloats("floats"), ElementsAre(0.5f, 2.0f));
  EXPECT_THAT(*m.GetFloats("ints"), ElementsAre(3.0f, -4.0f));
  EXPECT_THAT(*m.GetInts("bools"), ElementsAre(0, 1, 1));
  EXPECT_THAT(*m.GetStrings("strings"), ElementsAre("x", "", "yz"));
  EXPECT_TRUE(m.GetInts("none")->empty());
  EXPECT_THAT(*m.GetInts("one"), ElementsAre(7));
}

TEST(GgufMetadataTest, FallbacksStandInForMissingKeysOnly) {
  auto header = ParseBytes(GgufWriter().Add("text", GgufType::kString, "t").File());
  ASSERT_TRUE(header.ok());
  const GgufMetadata& m = header->metadata;
  EXPECT_FALSE(m.Has("missing"));
  EXPECT_EQ(*m.GetInt("missing", 3), 3);
  EXPECT_EQ(*m.GetFloat("missing", 0.5), 0.5);
  EXPECT_EQ(*m.GetBool("missing", true), true);
  EXPECT_EQ(*m.GetString("missing", "else"), "else");
  EXPECT_EQ(m.GetInt("text", 3).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GgufMetadataTest, ErrorsNameFileAndKey) {
  GgufWriter writer;
  writer.Add("text", GgufType::kString, "t")
      .Add("number", GgufType::kU64, UINT64_MAX)
      .Add("float", GgufType::kF32, 1.0f)
      .Add("bool", GgufType::kBool, uint8_t{1})
      .AddList<int32_t>("ints", GgufType::kI32, {1})
      .AddRaw("lists", GgufType::kArray,
              GgufBytes(uint32_t{9}) + GgufBytes(uint64_t{1}) + GgufBytes(uint32_t{0}) +
                  GgufBytes(uint64_t{2}) + "ab");
  auto header = ParseBytes(writer.File());
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& m = header->metadata;
  const std::vector<std::tuple<absl::Status, const char*, const char*>> cases = {
      {m.GetInt("text").status(), "\"text\"", "a string"},
      {m.GetInt("number").status(), "\"number\"", "signed 64-bit"},
      {m.GetInt("float").status(), "\"float\"", "a float"},
      {m.GetInt("bool").status(), "\"bool\"", "a bool"},
      {m.GetInt("ints").status(), "\"ints\"", "a list of integers"},
      {m.GetFloat("text").status(), "\"text\"", "a string"},
      {m.GetFloat("bool").status(), "\"bool\"", "a bool"},
      {m.GetBool("number").status(), "\"number\"", "an integer"},
      {m.GetString("number").status(), "\"number\"", "an integer"},
      {m.GetInts("float").status(), "\"float\"", "a float"},
      {m.GetFloats("text").status(), "\"text\"", "a string"},
      {m.GetStrings("ints").status(), "\"ints\"", "a list of integers"},
      {m.GetInts("lists").status(), "\"lists\"", "a list of lists"},
  };
  for (const auto& [status, key, kind] : cases) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("dir/file.gguf"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(key));
    EXPECT_THAT(std::string(status.message()), HasSubstr(kind));
  }
  const absl::Status missing = m.GetInt("missing").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("\"missing\""));
}

GgufWriter Small() {
  GgufWriter writer;
  writer.Add("general.architecture", GgufType::kString, "test")
      .AddList<std::string>("tokens", GgufType::kString, {"a", "b"})
      .AddTensor("blk.w", {2, 2}, kF32, std::string(16, 'w'))
      .AddTensor("blk.v", {4}, kI8, "vvvv");
  return writer;
}

TEST(GgufTest, EveryTruncationIsAnError) {
  const std::string file = Small().File();
  ASSERT_TRUE(ParseBytes(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = ParseBytes(file.substr(0, size)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(std::string(status.message()), HasSubstr("dir/file.gguf")) << size;
  }
}

TEST(GgufTest, AnyFlippedByteIsReadOrRefusedWithoutHarm) {
  const std::string file = Small().File();
  for (size_t i = 0; i < file.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      auto header = ParseBytes(changed);
      if (!header.ok()) continue;
      for (const TensorInfo& tensor : header->tensors) {
        ASSERT_LE(tensor.offset, changed.size());
        ASSERT_LE(tensor.bytes, changed.size() - tensor.offset);
      }
    }
  }
}

struct Lie {
  const char* name;
  std::string file;
  std::vector<std::string> says;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

void PrintTo(const Lie& lie, std::ostream* os) { *os << lie.name; }

class LyingGgufTest : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingGgufTest, IsRefusedNamingFileAndPlace) {
  const absl::Status status = ParseBytes(GetParam().file).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("dir/file.gguf"));
  for (const std::string& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
}

template <typename F>
std::string Changed(F change) {
  GgufWriter writer = Small();
  change(writer);
  return writer.File();
}

// A file of 64 data bytes with a tensor of these dims, type and offset.
std::string WithTensor(const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  GgufWriter writer;
  writer.AddTensorEntry("blk.w", dims, type, offset);
  writer.data = std::string(64, 'd');
  return writer.File();
}

std::string WithKey(GgufType type, const std::string& bytes) {
  return GgufWriter().AddRaw("some.key", type, bytes).File() + std::string(64, '\0');
}

std::string ListHead(uint32_t element, uint64_t count) {
  return GgufBytes(element) + GgufBytes(count);
}

std::string WithAlignment(uint32_t alignment) {
  return GgufWriter().Add("general.alignment", GgufType::kU32, alignment).File();
}

std::vector<Lie> HeaderLies() {
  constexpr uint64_t kHuge = UINT64_MAX;
  std::string nested;
  for (int i = 0; i < 5; ++i) nested += ListHead(9, 1);
  return {
      {"WrongMagic", Changed([](GgufWriter& w) { w.magic = "GGUX"; }), {"not a GGUF file"}},
      {"VersionOne",
       Changed([](GgufWriter& w) { w.version = 1; }),
       {"version 1"},
       absl::StatusCode::kUnimplemented},
      {"VersionFour",
       Changed([](GgufWriter& w) { w.version = 4; }),
       {"version 4"},
       absl::StatusCode::kUnimplemented},
      {"BigEndian",
       Changed([](GgufWriter& w) { w.version = 0x03000000; }),
       {"big-endian"},
       absl::StatusCode::kUnimplemented},
      {"HugeTensorCount", Changed([](GgufWriter& w) { w.tensors = kHuge; }), {"tensors"}},
      {"HugeKeyCount", Changed([](GgufWriter& w) { w.keys = kHuge; }), {"metadata keys"}},
      {"HugeKeyLength",
       GgufWriter().File().substr(0, 16) + GgufBytes(uint64_t{1}) + GgufBytes(kHuge) +
           std::string(64, 'k'),
       {"truncated"}},
      {"LongKey", GgufWriter().Add(std::string(70000, 'k'), GgufType::kU8, 'x').File(), {"65535"}},
      {"DuplicateKey",
       GgufWriter().Add("k", GgufType::kU8, 'x').Add("k", GgufType::kU8, 'y').File(),
       {"\"k\"", "twice"}},
      {"UnknownValueType", WithKey(static_cast<GgufType>(13), ""), {"\"some.key\"", "type 13"}},
      {"BadBool", WithKey(GgufType::kBool, "\x02"), {"\"some.key\"", "bool"}},
      {"HugeString", WithKey(GgufType::kString, GgufBytes(kHuge)), {"\"some.key\"", "truncated"}},
      {"HugeList", WithKey(GgufType::kArray, ListHead(10, kHuge / 8 + 2)), {"\"some.key\""}},
      {"HugeStringList", WithKey(GgufType::kArray, ListHead(8, kHuge / 8 + 2)), {"truncated"}},
      {"HugeListOfLists", WithKey(GgufType::kArray, ListHead(9, kHuge / 12 + 2)), {"truncated"}},
      {"UnknownElementType", WithKey(GgufType::kArray, ListHead(77, 1)), {"type 77"}},
      {"DeepNesting", WithKey(GgufType::kArray, nested), {"\"some.key\"", "nested"}},
      {"NoAlignment", WithAlignment(0), {"general.alignment"}},
      {"OddAlignment", WithAlignment(48), {"general.alignment", "48"}},
      {"AlignmentOfText",
       GgufWriter().Add("general.alignment", GgufType::kString, "32").File(),
       {"general.alignment"}},
  };
}

std::vector<Lie> TensorLies() {
  const std::string kName = "tensor \"blk.w\"";
  const uint64_t kHalf = uint64_t{1} << 32;
  return {
      {"FiveDimensions", WithTensor({1, 1, 1, 1, 1}, kI8, 0), {kName, "5 dimensions"}},
      {"NegativeDimension", WithTensor({UINT64_MAX}, kI8, 0), {kName, "overflows"}},
      {"OverflowingShape", WithTensor({kHalf, kHalf}, kI8, 0), {kName, "overflows"}},
      {"ShapeOverSigned", WithTensor({kHalf, kHalf / 2}, kI8, 0), {kName, "overflows"}},
      {"OverflowingBytes", WithTensor({kHalf, kHalf / 4}, kF32, 0), {kName, "overflows"}},
      {"PartOfABlock", WithTensor({16, 2}, kQ8_0, 0), {kName, "whole blocks of Q8_0"}},
      {"ScalarOfABlockType", WithTensor({}, kQ8_0, 0), {kName, "whole blocks"}},
      {"MisalignedOffset", WithTensor({4}, kI8, 16), {kName, "aligned"}},
      {"PastTheEnd", WithTensor({65}, kI8, 0), {kName, "past the end"}},
      {"OffsetPastTheEnd", WithTensor({1}, kI8, 64), {kName, "past the end"}},
      {"HugeOffset", WithTensor({1}, kI8, UINT64_MAX - 31), {kName, "past the end"}},
      {"UnknownType", WithTensor({1}, 99, 0), {kName, "type 99"}, absl::StatusCode::kUnimplemented},
      {"RemovedType", WithTensor({1}, 4, 0), {kName, "type 4"}, absl::StatusCode::kUnimplemented},
      {"KnownTypeWeLack",
       WithTensor({256}, 29, 0),
       {kName, "IQ1_M"},
       absl::StatusCode::kUnimplemented},
      {"DuplicateTensor",
       Changed([](GgufWriter& w) { w.AddTensor("blk.w", {4}, kI8, "wwww"); }),
       {kName, "twice"}},
      {"OverlappingTensors",
       Changed([](GgufWriter& w) { w.AddTensorEntry("blk.u", {20}, kI8, 0); }),
       {"\"blk.u\"", "\"blk.w\"", "overlaps"}},
  };
}

const auto kLieName = [](const auto& info) { return std::string(info.param.name); };
INSTANTIATE_TEST_SUITE_P(Header, LyingGgufTest, ::testing::ValuesIn(HeaderLies()), kLieName);
INSTANTIATE_TEST_SUITE_P(Tensor, LyingGgufTest, ::testing::ValuesIn(TensorLies()), kLieName);

TEST(OpenGgufTest, GivesTensorsAndMetadata) {
  TempDir dir;
  auto source = OpenGguf(dir.Write("m.gguf", Small().File()));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->format(), "gguf");
  EXPECT_EQ(Text((*source)->Data(*(*source)->Find("blk.v"))), "vvvv");
  EXPECT_EQ((*source)->Find("blk.x"), nullptr);
  EXPECT_EQ(*(*source)->metadata().GetString("general.architecture"), "test");
  EXPECT_TRUE((*source)->Health().ok());
}

TEST(OpenGgufTest, AFileOfEmptyTensorsNeedsNoPadding) {
  TempDir dir;
  GgufWriter writer;
  writer.AddTensorEntry("empty", {0}, kF32, 0);
  ASSERT_NE(writer.File().size() % 32, 0u);
  auto source = OpenGguf(dir.Write("m.gguf", writer.File()));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE((*source)->Data(*(*source)->Find("empty")).empty());
}

TEST(OpenGgufTest, ATruncationAfterOpeningShowsInHealth) {
  TempDir dir;
  auto source = OpenGguf(dir.Write("m.gguf", Small().File()));
  ASSERT_TRUE(source.ok());
  ASSERT_EQ(truncate(dir.file("m.gguf").c_str(), 0), 0);
  EXPECT_EQ(Text((*source)->Data(*(*source)->Find("blk.v"))), std::string(4, '\0'));
  const absl::Status health = (*source)->Health();
  EXPECT_EQ(health.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(health.message()), HasSubstr(dir.file("m.gguf")));
}

TEST(GgufPartNameTest, ReadsNamesOfPartsOnly) {
  const auto name = GgufPartName::Parse("dir/m-00002-of-00013.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->prefix, "dir/m");
  EXPECT_EQ(name->number, 2);
  EXPECT_EQ(name->count, 13);
  EXPECT_EQ(name->Path(13), "dir/m-00013-of-00013.gguf");
  for (const char* other :
       {"m.gguf", "-00001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf",
        "m-0001-of-00002.gguf", "m-0000x-of-00002.gguf", "m-00001-of-00002.bin",
        "m-00001_of-00002.gguf", "m--0001-of-00002.gguf"}) {
    EXPECT_FALSE(GgufPartName::Parse(other).has_value()) << other;
  }
}

class SplitGgufTest : public ::testing::Test {
 protected:
  // Writes part `number` of 3, which says of itself that it is `index` of `count`.
  std::string WritePart(int number, uint16_t index, uint16_t count, int total = 3) {
    GgufWriter part;
    part.Add("split.no", GgufType::kU16, index)
        .Add("split.count", GgufType::kU16, count)
        .Add("split.tensors.count", GgufType::kI32, total)
        .Add("part", GgufType::kI32, number);
    part.AddTensor(fmt::format("t{}", index), {1}, kI8, std::string(1, 'a' + index));
    return dir_.Write(fmt::format("m-{:05}-of-00003.gguf", number), part.File());
  }
  void ExpectRefused(const std::string& path, const std::string& says) {
    const absl::Status status = OpenGguf(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.path()));
  }

  TempDir dir_;
};

TEST_F(SplitGgufTest, OpensAllPartsWhicheverIsNamed) {
  for (int number : {1, 2, 3}) WritePart(number, number - 1, 3);
  for (int number : {1, 2, 3}) {
    auto source = OpenGguf(dir_.file(fmt::format("m-{:05}-of-00003.gguf", number)));
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ((*source)->files().size(), 3u);
    EXPECT_EQ(*(*source)->metadata().GetInt("part"), 1);
    for (int i = 0; i < 3; ++i) {
      const TensorInfo* tensor = (*source)->Find(fmt::format("t{}", i));
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->file, i);
      EXPECT_EQ(Text((*source)->Data(*tensor)), std::string(1, 'a' + i));
    }
  }
}

TEST_F(SplitGgufTest, AMissingPartIsNamed) {
  const std::string first = WritePart(1, 0, 3);
  WritePart(3, 2, 3);
  const absl::Status status = OpenGguf(first).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("m-00002-of-00003.gguf"));
}

TEST_F(SplitGgufTest, PartsThatDoNotBelongTogetherAreRefused) {
  const std::string first = WritePart(1, 0, 3);
  WritePart(2, 1, 3);
  WritePart(3, 1, 3);
  ExpectRefused(first, "m-00003-of-00003.gguf");
  WritePart(3, 2, 4);
  ExpectRefused(first, "part 3 of 4");
  WritePart(3, 2, 3);
  WritePart(1, 0, 3, 5);
  ExpectRefused(first, "3 tensors together, not 5");
  WritePart(1, 0, 2);
  ExpectRefused(first, "part 1 of 2");
  dir_.Write("m-00001-of-00003.gguf", GgufWriter().File());
  ExpectRefused(dir_.file("m-00002-of-00003.gguf"), "no split.count");
}

TEST_F(SplitGgufTest, ATensorInTwoPartsIsRefused) {
  for (int number : {1, 2}) {
    GgufWriter part;
    part.Add("split.no", GgufType::kU16, static_cast<uint16_t>(number - 1))
        .Add("split.count", GgufType::kU16, uint16_t{2})
        .AddTensor("t", {1}, kI8, "t");
    dir_.Write(fmt::format("m-{:05}-of-00002.gguf", number), part.File());
  }
  ExpectRefused(dir_.file("m-00001-of-00002.gguf"), "tensor \"t\"");
}

TEST_F(SplitGgufTest, APartUnderAnotherNameIsRefused) {
  const std::string first = WritePart(1, 0, 3);
  std::filesystem::rename(first, dir_.file("renamed.gguf"));
  ExpectRefused(dir_.file("renamed.gguf"), "-00001-of-00002.gguf");
}

TEST(OpenGgufTest, OpensTheGoldenModels) {
  const std::filesystem::path models = HOSTLER_SOURCE_DIR "/../shared/golden/gguf/models";
  if (!std::filesystem::exists(models)) GTEST_SKIP() << models << " is not there";
  int opened = 0;
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    if (entry.path().extension() != ".gguf") continue;
    auto source = OpenGguf(entry.path().string());
    ASSERT_TRUE(source.ok()) << source.status();
    ++opened;
    const GgufMetadata& metadata = (*source)->metadata();
    auto architecture = metadata.GetString("general.architecture");
    ASSERT_TRUE(architecture.ok()) << architecture.status();
    const bool q8 = entry.path().string().find("Q8_0") != std::string::npos;
    const TensorInfo* experts = (*source)->Find("blk.0.ffn_gate_exps.weight");
    ASSERT_NE(experts, nullptr);
    EXPECT_EQ(experts->dtype, q8 ? DType::kQ8_0 : DType::kF16);
    EXPECT_EQ(experts->shape.size(), 3u);
    EXPECT_EQ(experts->shape[0], *metadata.GetInt(std::string(*architecture) + ".expert_count"));
    EXPECT_EQ(experts->shape[2],
              *metadata.GetInt(std::string(*architecture) + ".embedding_length"));
    auto tokens = metadata.GetStrings("tokenizer.ggml.tokens");
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_EQ(tokens->size(), (*source)->Find("token_embd.weight")->shape[0]);
  }
  EXPECT_GT(opened, 0);
}

}  // namespace
}  // namespace hostler
