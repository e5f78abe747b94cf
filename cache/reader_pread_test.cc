#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {
namespace {

using ::testing::HasSubstr;

class PreadReaderTest : public ::testing::Test {
 protected:
  PreadReaderTest() {
    std::string name = (std::filesystem::temp_directory_path() / "hostler_cache_XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~PreadReaderTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  std::string Write(const std::string& name, const std::string& contents) const {
    std::ofstream(directory_ / name, std::ios::binary) << contents;
    return (directory_ / name).string();
  }

  std::filesystem::path directory_;
};

std::string ReadText(Reader* reader, const Extent& extent, absl::Status* status) {
  std::string text(extent.bytes, '?');
  *status = reader->Read(extent, std::as_writable_bytes(std::span(text)));
  return text;
}

TEST_F(PreadReaderTest, ReadsExtentsOfSeveralFiles) {
  const std::array<std::string, 2> paths = {Write("a", "0123456789"), Write("b", "abcdef")};
  auto reader = NewPreadReader(paths);
  ASSERT_TRUE(reader.ok()) << reader.status();
  absl::Status status;
  EXPECT_EQ(ReadText(reader->get(), {0, 2, 5}, &status), "23456");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadText(reader->get(), {1, 0, 6}, &status), "abcdef");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadText(reader->get(), {1, 3, 0}, &status), "");
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(PreadReaderTest, AShortFileIsDataLossNamingFileAndOffset) {
  const std::array<std::string, 1> paths = {Write("short", "0123456789")};
  auto reader = NewPreadReader(paths);
  ASSERT_TRUE(reader.ok());
  ASSERT_EQ(truncate(paths[0].c_str(), 6), 0);
  absl::Status status;
  ReadText(reader->get(), {0, 4, 5}, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(paths[0]));
  EXPECT_THAT(std::string(status.message()), HasSubstr("offset 4"));
}

TEST_F(PreadReaderTest, AMissingFileIsNotFoundAndNamed) {
  const std::array<std::string, 2> paths = {Write("a", "x"), (directory_ / "nowhere").string()};
  const absl::Status status = NewPreadReader(paths).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(paths[1]));
}

TEST_F(PreadReaderTest, AnIoErrorIsUnavailableNamingTheFile) {
  const std::array<std::string, 1> paths = {directory_.string()};  // opens, but cannot be read
  auto reader = NewPreadReader(paths);
  ASSERT_TRUE(reader.ok());
  absl::Status status;
  ReadText(reader->get(), {0, 0, 1}, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(paths[0]));
}

TEST(DramTierTest, SlotsAreAlignedAndApart) {
  auto tier = NewDramTier(5, 5000);
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_EQ((*tier)->num_slots(), 5);
  EXPECT_EQ((*tier)->slot_bytes(), 5000u);
  for (int i = 0; i < 5; ++i) {
    const std::span<std::byte> slot = (*tier)->slot(i);
    ASSERT_EQ(slot.size(), 5000u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(slot.data()) % 4096, 0u);
    std::memset(slot.data(), i, slot.size());
  }
  for (int i = 0; i < 5; ++i) {
    for (const std::byte b : (*tier)->slot(i)) ASSERT_EQ(b, std::byte(i));
  }
}

TEST(DramTierTest, MemoryThatCannotBeHadIsAnError) {
  EXPECT_EQ(NewDramTier(1 << 30, size_t{1} << 30).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(NewDramTier(1 << 30, size_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(NewDramTier(1, SIZE_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(NewDramTier(0, 4096).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace hostler
