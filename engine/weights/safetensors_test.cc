#include "engine/weights/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "engine/weights/test_files.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<TensorInfo>> ParseBytes(const std::string& file) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(file)), "dir/file.safetensors");
}

std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(SafetensorsHeaderTest, ReadsEveryTypeOfOurs) {
  const std::vector<std::pair<std::string, DType>> types = {
      {"F64", DType::kF64},   {"F32", DType::kF32},        {"F16", DType::kF16},
      {"BF16", DType::kBF16}, {"F8_E4M3", DType::kF8E4M3}, {"I64", DType::kI64},
      {"I32", DType::kI32},   {"I16", DType::kI16},        {"I8", DType::kI8},
      {"U8", DType::kU8},     {"BOOL", DType::kBool},
  };
  for (const auto& [name, dtype] : types) {
    const int bytes = 6 * GetDTypeInfo(dtype).block_bytes;
    const std::string header =
        fmt::format(R"({{"t":{{"dtype":"{}","shape":[2,3],"data_offsets":[0,{}]}}}})", name, bytes);
    auto tensors = ParseBytes(SafetensorsBytes(header, std::string(bytes, 'd')));
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    ASSERT_EQ(tensors->size(), 1u);
    const TensorInfo& tensor = tensors->front();
    EXPECT_EQ(tensor.name, "t");
    EXPECT_EQ(tensor.dtype, dtype);
    EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
    EXPECT_EQ(tensor.ShapeString(), "[2, 3]");
    EXPECT_EQ(tensor.offset, 8 + header.size());
    EXPECT_EQ(tensor.bytes, bytes);
  }
}

TEST(SafetensorsHeaderTest, ScalarsEmptyTensorsMetadataAndUnknownFieldsAreFine) {
  auto tensors = ParseBytes(SafetensorsBytes(
      R"({"__metadata__":{"format":"pt","x":{"dtype":[1,{"y":[]}]}},)"
      R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4],"note":{"shape":[null]}},)"
      R"("empty":{"data_offsets":[2,2],"extra":"e","shape":[0,5],"dtype":"F32"}}   )",
      "0123"));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[0].name, "scalar");
  EXPECT_TRUE((*tensors)[0].shape.empty());
  EXPECT_EQ((*tensors)[1].name, "empty");
  EXPECT_EQ((*tensors)[1].bytes, 0u);
}

TEST(SafetensorsHeaderTest, AFileWithoutTensorsIsFine) {
  auto tensors = ParseBytes(SafetensorsBytes("{}", ""));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->empty());
}

TEST(SafetensorsHeaderTest, EveryTruncationIsAnError) {
  const std::string file =
      SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "01234567");
  ASSERT_TRUE(ParseBytes(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = ParseBytes(file.substr(0, size)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(std::string(status.message()), HasSubstr("dir/file.safetensors")) << size;
  }
}

TEST(SafetensorsHeaderTest, AnyFlippedByteIsReadOrRefusedWithoutHarm) {
  const std::string file = SafetensorsBytes(
      R"({"__metadata__":{"a":"b"},"a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})",
      "0123");
  for (size_t i = 0; i < file.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      auto tensors = ParseBytes(changed);
      if (!tensors.ok()) continue;
      for (const TensorInfo& tensor : *tensors) {
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

class LyingHeaderTest : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingHeaderTest, IsRefusedNamingFileAndTensor) {
  const absl::Status status = ParseBytes(GetParam().file).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("dir/file.safetensors"));
  for (const std::string& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
}

// A file of 8 data bytes whose tensor "blk.w" has this entry.
std::string WithEntry(const std::string& entry) {
  return SafetensorsBytes(fmt::format(R"({{"blk.w":{}}})", entry), "01234567");
}

std::string WithPrefix(std::string prefix) { return prefix + "{}"; }

std::vector<Lie> Lies() {
  const std::string kName = "tensor \"blk.w\"";
  const std::string kGood = R"("blk.w":{"dtype":"I8","shape":[4],"data_offsets":[0,4]})";
  return {
      {"EmptyFile", "", {"truncated"}},
      {"PrefixCutOff", "1234567", {"truncated"}},
      {"HeaderLongerThanFile", WithPrefix(std::string("\x03\0\0\0\0\0\0\0", 8)), {"truncated"}},
      {"HeaderOverTheLimit", WithPrefix(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8)), {"limit"}},
      {"HugePrefix", WithPrefix(std::string(8, '\xff')), {"limit"}},
      {"EmptyHeader", SafetensorsBytes("", ""), {"not a JSON object"}},
      {"HeaderIsArray", SafetensorsBytes("[]", ""), {"not a JSON object"}},
      {"LeadingSpace", SafetensorsBytes(" {}", ""), {"not a JSON object"}},
      {"UnfinishedJson", SafetensorsBytes(R"({"a":)", ""), {"not valid JSON"}},
      {"TextAfterTheObject", SafetensorsBytes("{} x", ""), {"not valid JSON"}},
      {"TrailingComma", SafetensorsBytes("{" + kGood + ",}", "0123"), {"not valid JSON"}},
      {"BadUtf8", SafetensorsBytes("{\"\xff\":{}}", ""), {"not valid JSON"}},
      {"DeepNesting", SafetensorsBytes("{\"blk.w\":" + std::string(100000, '['), ""), {kName}},
      {"DeepMetadata",
       SafetensorsBytes("{\"__metadata__\":" + std::string(100000, '['), ""),
       {"not valid JSON"}},
      {"EntryIsNumber", WithEntry("7"), {kName, "object"}},
      {"EntryIsNull", WithEntry("null"), {kName, "object"}},
      {"EntryIsArray", WithEntry("[]"), {kName, "object"}},
      {"NoDtype", WithEntry(R"({"shape":[8],"data_offsets":[0,8]})"), {kName, "dtype"}},
      {"NoShape", WithEntry(R"({"dtype":"I8","data_offsets":[0,8]})"), {kName, "shape"}},
      {"NoOffsets", WithEntry(R"({"dtype":"I8","shape":[8]})"), {kName, "data_offsets"}},
      {"DtypeIsNumber",
       WithEntry(R"({"dtype":8,"shape":[8],"data_offsets":[0,8]})"),
       {kName, "dtype"}},
      {"ShapeIsString",
       WithEntry(R"({"dtype":"I8","shape":"8","data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeIsObject",
       WithEntry(R"({"dtype":"I8","shape":{},"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeNested",
       WithEntry(R"({"dtype":"I8","shape":[[8]],"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeNegative",
       WithEntry(R"({"dtype":"I8","shape":[-8],"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeFraction",
       WithEntry(R"({"dtype":"I8","shape":[8.0],"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeBool",
       WithEntry(R"({"dtype":"I8","shape":[true],"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ShapeOver63Bits",
       WithEntry(R"({"dtype":"I8","shape":[9223372036854775808],"data_offsets":[0,8]})"),
       {kName, "overflow"}},
      {"ShapeOver64Bits",
       WithEntry(R"({"dtype":"I8","shape":[18446744073709551624],"data_offsets":[0,8]})"),
       {kName, "shape"}},
      {"ProductOverflows",
       WithEntry(R"({"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
       {kName, "overflow"}},
      {"BytesOverflow",
       WithEntry(R"({"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]})"),
       {kName, "overflow"}},
      {"RankTooHigh",
       WithEntry(
           R"({"dtype":"I8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]})"),
       {kName, "dimensions"}},
      {"OffsetsOne",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[0]})"),
       {kName, "data_offsets"}},
      {"OffsetsThree",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[0,8,8]})"),
       {kName, "data_offsets"}},
      {"OffsetsNegative",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[-8,0]})"),
       {kName, "data_offsets"}},
      {"OffsetsReversed",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[8,0]})"),
       {kName, "reversed"}},
      {"OffsetsPastTheEnd",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[1,9]})"),
       {kName, "past the end"}},
      {"OffsetsHuge",
       WithEntry(
           R"({"dtype":"I8","shape":[8],"data_offsets":[18446744073709551608,18446744073709551615]})"),
       {kName, "past the end"}},
      {"TooFewBytes",
       WithEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,7]})"),
       {kName, "7 bytes", "F32", "[2]"}},
      {"TooManyBytes",
       WithEntry(R"({"dtype":"I8","shape":[7],"data_offsets":[0,8]})"),
       {kName, "8 bytes"}},
      {"DtypeTwice",
       WithEntry(R"({"dtype":"I8","dtype":"U8","shape":[8],"data_offsets":[0,8]})"),
       {kName, "dtype occurs twice"}},
      {"ShapeTwice",
       WithEntry(R"({"dtype":"I8","shape":[4],"shape":[8],"data_offsets":[0,8]})"),
       {kName, "shape occurs twice"}},
      {"OffsetsTwice",
       WithEntry(R"({"dtype":"I8","shape":[8],"data_offsets":[0,8],"data_offsets":[0,8]})"),
       {kName, "data_offsets occurs twice"}},
      {"NameTwice",
       SafetensorsBytes("{" + kGood + "," + kGood + "}", "01234567"),
       {kName, "twice"}},
      {"Overlap",
       SafetensorsBytes(
           R"({"b":{"dtype":"I8","shape":[4],"data_offsets":[3,7]},"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})",
           "01234567"),
       {"tensor \"b\"", "overlaps tensor \"a\""}},
      {"SameBytes",
       SafetensorsBytes(
           R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})",
           "01234567"),
       {"overlaps"}},
      {"UnknownDtype",
       WithEntry(R"({"dtype":"F4_E2M1","shape":[8],"data_offsets":[0,8]})"),
       {kName, "F4_E2M1"},
       absl::StatusCode::kUnimplemented},
  };
}

INSTANTIATE_TEST_SUITE_P(Lies, LyingHeaderTest, ::testing::ValuesIn(Lies()),
                         [](const auto& info) { return std::string(info.param.name); });

absl::Status IndexError(const std::string& json) {
  return ParseSafetensorsIndex(std::as_bytes(std::span(json)), "dir/index.json").status();
}

TEST(SafetensorsIndexTest, ListsTensorsAndShards) {
  const std::string json =
      R"({"metadata":{"total_size":5,"weight_map":{"no":7}},"weight_map":{"a":"s1","b":"s2"}})";
  auto entries = ParseSafetensorsIndex(std::as_bytes(std::span(json)), "dir/index.json");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, ElementsAre(std::pair("a", "s1"), std::pair("b", "s2")));
}

TEST(SafetensorsIndexTest, LiesAreRefusedNamingTheTensor) {
  const std::vector<std::pair<std::string, std::string>> lies = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"7", "not a JSON object"},
      {"{}", "no weight_map"},
      {R"({"weight_map":7})", "weight_map is not an object"},
      {R"({"weight_map":[]})", "weight_map is not an object"},
      {R"({"weight_map":{},"weight_map":{}})", "twice"},
      {R"({"weight_map":{"blk.w":7}})", "tensor \"blk.w\""},
      {R"({"weight_map":{"blk.w":["s"]}})", "tensor \"blk.w\""},
      {R"({"weight_map":{"blk.w":{}}})", "tensor \"blk.w\""},
      {R"({"weight_map":{"blk.w":"s","blk.w":"t"}})", "tensor \"blk.w\": occurs twice"},
      {R"({"weight_map":{"blk.w":""}})", "not a plain file name"},
      {R"({"weight_map":{"blk.w":"."}})", "not a plain file name"},
      {R"({"weight_map":{"blk.w":".."}})", "not a plain file name"},
      {R"({"weight_map":{"blk.w":"../s"}})", "tensor \"blk.w\": its shard \"../s\""},
      {R"({"weight_map":{"blk.w":"/etc/passwd"}})", "not a plain file name"},
      {R"({"weight_map":{"blk.w":"a\u0000b"}})", "not a plain file name"},
      {R"({"weight_map":{"blk.w":"s"})", "not valid JSON"},
  };
  for (const auto& [json, says] : lies) {
    const absl::Status status = IndexError(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr("dir/index.json")) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says)) << json;
  }
}

constexpr char kShard1[] = R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})";
constexpr char kShard2[] =
    R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"unlisted":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})";

TEST(OpenSafetensorsTest, ReadsASingleFile) {
  TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(kShard1, "AAA"));
  auto source = OpenSafetensors(dir.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->format(), "safetensors");
  EXPECT_THAT((*source)->files(), ElementsAre(dir.file("model.safetensors")));
  const TensorInfo* a = (*source)->Find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(Text((*source)->Data(*a)), "AAA");
  EXPECT_EQ((*source)->Find("b"), nullptr);
  EXPECT_TRUE((*source)->Health().ok());
}

TEST(OpenSafetensorsTest, ReadsShardsAsTheIndexSays) {
  TempDir dir;
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"b":"two","a":"one"}})");
  dir.Write("one", SafetensorsBytes(kShard1, "AAA"));
  dir.Write("two", SafetensorsBytes(kShard2, "BBUU"));
  auto source = OpenSafetensors(dir.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT((*source)->files(), ElementsAre(dir.file("one"), dir.file("two")));
  ASSERT_EQ((*source)->tensors().size(), 2u);
  EXPECT_EQ(Text((*source)->Data(*(*source)->Find("a"))), "AAA");
  EXPECT_EQ(Text((*source)->Data(*(*source)->Find("b"))), "BB");
  EXPECT_EQ((*source)->Find("b")->file, 1);
  EXPECT_EQ((*source)->Find("unlisted"), nullptr);
}

TEST(OpenSafetensorsTest, MissingShardsAndTensorsAreNamed) {
  TempDir dir;
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"one","c":"two"}})");
  dir.Write("one", SafetensorsBytes(kShard1, "AAA"));
  absl::Status status = OpenSafetensors(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir.file("two")));

  dir.Write("two", SafetensorsBytes(kShard2, "BBUU"));
  status = OpenSafetensors(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir.file("two")));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"c\""));
}

TEST(OpenSafetensorsTest, ATruncationAfterOpeningShowsInHealth) {
  TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(kShard1, "AAA"));
  auto source = OpenSafetensors(dir.path());
  ASSERT_TRUE(source.ok());
  ASSERT_EQ(truncate(dir.file("model.safetensors").c_str(), 0), 0);
  EXPECT_EQ(Text((*source)->Data(*(*source)->Find("a"))), std::string(3, '\0'));
  const absl::Status health = (*source)->Health();
  EXPECT_EQ(health.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(health.message()), HasSubstr(dir.file("model.safetensors")));
}

}  // namespace
}  // namespace hostler
