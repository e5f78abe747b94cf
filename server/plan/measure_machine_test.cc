#include "server/plan/measure_machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace hostler {
namespace {

class MeasureMachineTest : public ::testing::Test {
 protected:
  MeasureMachineTest() : folder_(::testing::TempDir() + "/measure" + std::to_string(getpid())) {
    std::filesystem::create_directory(folder_);
  }
  ~MeasureMachineTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<MachineProfile> Measure(const std::string& disk) {
    return MeasureMachine({disk, 2, 1e-4, uint64_t{64} << 20, 256}, [](const std::string&) {});
  }

  const std::string folder_;
};

TEST_F(MeasureMachineTest, MeasuresEverythingAndLeavesNothing) {
  const auto profile = Measure(folder_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_EQ(profile->threads, 2);
  // What a profile's reader takes is sound.
  EXPECT_TRUE(ParseMachineProfile(ToJson(*profile).dump()).ok());
  EXPECT_GT(profile->DiskBytesPerSecond(1 << 20, 4), 0);
  EXPECT_GT(profile->kernels.at(DType::kQ4_K).back().macs_s, 0);
}

TEST_F(MeasureMachineTest, ReadsAFileThatIsThere) {
  const std::string path = folder_ + "/model";
  std::ofstream(path).close();
  std::filesystem::resize_file(path, 64 << 20);
  const auto profile = Measure(path);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(std::filesystem::file_size(path), 64 << 20);
  std::filesystem::resize_file(path, 1 << 20);
  EXPECT_EQ(Measure(path).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(MeasureMachineTest, NamesAPathThatIsNotThere) {
  const absl::Status status = Measure(folder_ + "/nothing").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("nothing"), std::string::npos);
}

}  // namespace
}  // namespace hostler
