#include "server/plan/measure_machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/engine/device.h"

namespace hostler {
namespace {

class MeasureMachineTest : public ::testing::Test {
 protected:
  MeasureMachineTest() : folder_(::testing::TempDir() + "/measure" + std::to_string(getpid())) {
    std::filesystem::create_directory(folder_);
  }
  ~MeasureMachineTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<MachineProfile> Measure(const std::string& disk) {
    MeasureOptions options;
    options.disk = disk;
    options.threads = 2;
    options.seconds = 1e-4;
    options.file_bytes = uint64_t{64} << 20;
    options.memory_bytes = uint64_t{256} << 20;
    options.dim = 256;
    options.devices = devices_;
    options.most_rows = devices_.empty() ? 512 : 1;
    return MeasureMachine(options, [](const std::string&) {});
  }

  std::vector<std::string> devices_;
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

TEST_F(MeasureMachineTest, MeasuresAGpuWithItsOwnKernels) {
  if (!CheckDevice("cuda-emulated").ok()) GTEST_SKIP() << "no emulation";
  devices_ = {"cuda-emulated"};
  const auto profile = Measure(folder_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  ASSERT_EQ(profile->gpus.size(), 1u);
  const MachineProfile::GpuProfile& gpu = profile->gpus[0];
  EXPECT_EQ(gpu.backend, "cuda-sm80");
  EXPECT_EQ(gpu.memory_bytes, uint64_t{16} << 30);
  EXPECT_EQ(gpu.kernels.size(), profile->kernels.size());
  EXPECT_GT(gpu.to_device_bytes_s, 0);
  const auto read = ParseMachineProfile(ToJson(*profile).dump());
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->gpus.size(), 1u);
  EXPECT_EQ(ToJson(*read), ToJson(*profile));
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
