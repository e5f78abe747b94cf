#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/base/bytes.h"
#include "engine/base/dtype.h"
#include "engine/base/replace_file.h"
#include "engine/base/status.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

TEST(BytesTest, ParsesSizesAsPeopleWriteThem) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("8GiB"), 8ull << 30);
  EXPECT_EQ(*ParseBytes("2G"), 2ull << 30);
  EXPECT_EQ(*ParseBytes("1.5 MiB"), 3ull << 19);
  EXPECT_EQ(*ParseBytes("2GB"), 2000000000u);
}

TEST(BytesTest, RefusesWhatIsNoSize) {
  for (const char* bad : {"", "GiB", "-1", "8X", "1..2G", "999999999999T", "nan"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

TEST(BytesTest, FormatsWithThreeDigits) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(196608), "192 KiB");
  EXPECT_EQ(FormatBytes(3900000000), "3.63 GiB");
}

TEST(DTypeTest, CountsBlockBytes) {
  EXPECT_EQ(RowBytes(DType::kBF16, 256), 512u);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288u);
  EXPECT_EQ(GetDTypeInfo(DType::kMXFP4).name, "mxfp4");
  EXPECT_EQ(GetDTypeInfo(DType::kF8E4M3).name, "f8_e4m3");
  EXPECT_EQ(GetDTypeInfo(DType::kBool).name, "bool");
}

TEST(ReplaceFileTest, WritesAllOrNothing) {
  const std::string folder = testing::TempDir() + "replace_file";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const std::string path = folder + "/state", temporary = path + ".new";
  const auto read = [&] {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  std::ofstream(temporary) << "what a killed process left";
  ASSERT_TRUE(ReplaceFile(path, "first", 0600).ok());
  EXPECT_EQ(read(), "first");
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms(0600));
  ASSERT_TRUE(CheckReplaceable(path).ok());
  EXPECT_EQ(read(), "first");
  EXPECT_FALSE(std::filesystem::exists(temporary));
  std::filesystem::create_directories(temporary + "/in the way");
  const absl::Status failed = ReplaceFile(path, "second");
  EXPECT_NE(failed.message().find(path), std::string::npos) << failed;
  EXPECT_EQ(CheckReplaceable(path), failed);
  EXPECT_EQ(read(), "first");
  std::filesystem::remove_all(temporary);
  ASSERT_TRUE(ReplaceFile(path, "second").ok());
  EXPECT_EQ(read(), "second");
  EXPECT_TRUE(absl::IsFailedPrecondition(ReplaceFile(folder, "x")));
  EXPECT_TRUE(absl::IsNotFound(ReplaceFile(folder + "/none/state", "x")));
}

TEST(StatusTest, FieldErrorsCarryTheirField) {
  const absl::Status status = FieldError("max_tokens", "must be positive");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), "max_tokens");
  EXPECT_EQ(status.message(), "max_tokens: must be positive");
  EXPECT_EQ(ErrorField(absl::NotFoundError("x")), "");
}

}  // namespace
}  // namespace hostler
