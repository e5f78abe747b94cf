#include "server/commands/npy.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include "gtest/gtest.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

TEST(NpyTest, HoldsVersionOneHeaderAndRowsInOrder) {
  const std::string path = testing::TempDir() + "/hostler_test.npy";
  const std::vector<float> values = {0, 1.5, -2, 3, 4, 5};
  ASSERT_TRUE(WriteNpy(path, 2, 3, values).ok());
  const std::string file = ReadFile(path).value();
  std::remove(path.c_str());

  EXPECT_EQ(file.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header = static_cast<unsigned char>(file[8]) + 256 * file[9];
  EXPECT_EQ((10 + header) % 64, 0u);
  const std::string text = file.substr(10, header);
  EXPECT_TRUE(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"));
  EXPECT_EQ(text.back(), '\n');
  ASSERT_EQ(file.size(), 10 + header + values.size() * 4);
  EXPECT_EQ(std::memcmp(file.data() + 10 + header, values.data(), values.size() * 4), 0);
}

TEST(NpyTest, AFileThatCannotBeWrittenIsNamed) {
  const absl::Status status = WriteNpy("/nonexistent/x.npy", 1, 1, std::vector<float>{1});
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_NE(std::string(status.message()).find("/nonexistent/x.npy"), std::string::npos);
}

TEST(NpyTest, AFullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const std::string path = testing::TempDir() + "/hostler_full.npy";
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/dev/full", path);
  EXPECT_TRUE(absl::IsUnavailable(WriteNpy(path, 1, 1000, std::vector<float>(1000))));
  EXPECT_TRUE(std::filesystem::is_symlink(path)) << "only regular files may be removed";
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace hostler
