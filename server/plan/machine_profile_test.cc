#include "server/plan/machine_profile.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace hostler {
namespace {

MachineProfile Profile() {
  MachineProfile profile;
  profile.cpu = "a processor";
  profile.backend = "cpu-avx2";
  profile.threads = 2;
  profile.disk_path = "/models";
  profile.reader = "io_uring";
  profile.past_page_cache = true;
  profile.disk = {{1 << 18, 1, 1e8}, {1 << 18, 8, 4e8}, {1 << 20, 1, 3e8}, {1 << 20, 8, 2e9}};
  profile.memory_bytes_s_1 = 8e9;
  profile.memory_bytes_s = 14e9;
  profile.operation_s = 3e-6;
  profile.kernels[DType::kQ8_0] = {{1, 10e9}, {8, 40e9}, {512, 80e9}};
  profile.kernels[DType::kF32] = {{1, 2e9}};
  return profile;
}

TEST(MachineProfileTest, ComesBackFromItsFile) {
  const std::string path = ::testing::TempDir() + "/profile" + std::to_string(getpid()) + "/p.json";
  ASSERT_TRUE(WriteMachineProfile(Profile(), path).ok());
  const auto read = ReadMachineProfile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(Profile()));
  EXPECT_TRUE(CheckProfilePath(path).ok());
  EXPECT_TRUE(ReadMachineProfile(path).ok()) << "trying leaves it alone";
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  std::filesystem::remove_all(std::filesystem::path(path).parent_path());
}

TEST(MachineProfileTest, APlaceThatCannotBeWrittenIsToldBeforehand) {
  EXPECT_FALSE(CheckProfilePath("/proc/nothing/p.json").ok());
  EXPECT_FALSE(CheckProfilePath(::testing::TempDir()).ok());
  EXPECT_FALSE(WriteMachineProfile(Profile(), ::testing::TempDir()).ok());
}

TEST(MachineProfileTest, AMissingOneSaysHowToMakeIt) {
  const absl::Status status = ReadMachineProfile("/nothing/profile.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("hostler doctor --profile"), std::string::npos);
}

TEST(MachineProfileTest, RefusesWhatCannotBe) {
  const auto parse = [](auto change) {
    nlohmann::ordered_json json = ToJson(Profile());
    change(json);
    return ParseMachineProfile(json.dump()).status().code();
  };
  using Json = nlohmann::ordered_json;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(parse([](Json&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(parse([](Json& j) { j["version"] = 7; }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["threads"] = -1; }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["threads"] = "2"; }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j.erase("memory_bytes_per_second"); }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["disk"][0]["bytes_per_second"] = 0; }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["disk"] = Json::array({1}); }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["kernels"]["q8_0"][0]["rows"] = 9; }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["kernels"]["q8_0"] = Json::array(); }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["kernels"]["q9"] = Json::array(); }), kInvalid);
  EXPECT_EQ(parse([](Json& j) { j["kernels"] = 3; }), kInvalid);
  EXPECT_EQ(ParseMachineProfile("{").status().code(), kInvalid);
  EXPECT_EQ(ParseMachineProfile("[]").status().code(), kInvalid);
}

MachineProfile::GpuProfile GpuOfProfile() {
  MachineProfile::GpuProfile gpu;
  gpu.name = "a GPU";
  gpu.backend = "cuda-sm90";
  gpu.memory_bytes = uint64_t{80} << 30;
  gpu.memory_bytes_s = 3e12;
  gpu.to_device_bytes_s = 55e9;
  gpu.to_host_bytes_s = 50e9;
  gpu.operation_s = 4e-6;
  gpu.kernels[DType::kQ8_0] = {{1, 2e12}, {512, 90e12}};
  return gpu;
}

TEST(MachineProfileTest, KnowsGpusFromVersionTwoOn) {
  using Json = nlohmann::ordered_json;
  MachineProfile profile = Profile();
  profile.gpus = {GpuOfProfile(), GpuOfProfile()};
  const auto read = ParseMachineProfile(ToJson(profile).dump());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(profile));
  Json old = ToJson(Profile());
  old["version"] = 1;
  old.erase("gpus");
  const auto without = ParseMachineProfile(old.dump());
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_TRUE(without->gpus.empty());
  EXPECT_EQ(ToJson(*without), ToJson(Profile()));
  for (const char* key : {"memory_bytes", "to_device_bytes_per_second", "kernels"}) {
    Json broken = ToJson(profile);
    broken["gpus"][1][key] = 0;
    EXPECT_EQ(ParseMachineProfile(broken.dump()).status().code(),
              absl::StatusCode::kInvalidArgument)
        << key;
  }
}

TEST(MachineProfileTest, AGpuSeesItsOwnKernelsAndALink) {
  const MachineProfile seen = OnGpu(Profile(), GpuOfProfile());
  EXPECT_EQ(seen.memory_bytes_s, 3e12);
  EXPECT_EQ(seen.link_bytes_s, 55e9);
  EXPECT_DOUBLE_EQ(seen.KernelSeconds(DType::kQ8_0, 2e12, 1), 1);
  EXPECT_EQ(seen.disk.size(), Profile().disk.size());
}

TEST(MachineProfileTest, TakesAGpuByItsNumbers) {
  const auto gpu = ParseGpuNumbers("24GiB,1008GB/s,25GB/s,165TFLOPS");
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  EXPECT_EQ(gpu->memory_bytes, uint64_t{24} << 30);
  EXPECT_DOUBLE_EQ(gpu->memory_bytes_s, 1008e9);
  EXPECT_DOUBLE_EQ(gpu->to_device_bytes_s, 25e9);
  const MachineProfile seen = OnGpu(Profile(), *gpu);
  // A q8_0 weight is 34 / 32 bytes.
  EXPECT_DOUBLE_EQ(seen.KernelSeconds(DType::kQ8_0, 1e9, 1), 34.0 / 32 / 1008);
  EXPECT_DOUBLE_EQ(seen.KernelSeconds(DType::kF16, 1e9, 512), 512e9 / 82.5e12);
  // Without a limit to what it computes a prompt is as fast as memory.
  const auto unlimited = ParseGpuNumbers("1GiB,1TB/s,25.5GB/s");
  ASSERT_TRUE(unlimited.ok()) << unlimited.status();
  EXPECT_DOUBLE_EQ(OnGpu(Profile(), *unlimited).KernelSeconds(DType::kF16, 1e9, 512), 2e9 / 1e12);
  for (const char* wrong :
       {"", "24GiB", "24GiB,1008,25GB/s", "24GiB,-1GB/s,25GB/s", "x,1GB/s,1GB/s",
        "24GiB,1GB/s,1GB/s,165", "24GiB,1GB/s,1GB/s,1TFLOPS,1", "1GiB,GB/s,1GB/s"}) {
    EXPECT_EQ(ParseGpuNumbers(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(MachineProfileTest, InterpolatesTheDisk) {
  const MachineProfile profile = Profile();
  EXPECT_DOUBLE_EQ(profile.DiskBytesPerSecond(1 << 20, 8), 2e9);
  EXPECT_DOUBLE_EQ(profile.DiskBytesPerSecond(1 << 19, 1), 2e8);  // half way of the octaves
  EXPECT_DOUBLE_EQ(profile.DiskBytesPerSecond(1 << 24, 100), 2e9);
  EXPECT_DOUBLE_EQ(profile.DiskBytesPerSecond(0, 0.5), 1e8);
  EXPECT_DOUBLE_EQ(profile.DiskBytesPerSecond(1 << 20, 4.5), (3e8 + 2e9) / 2);
  EXPECT_EQ(MachineProfile().DiskBytesPerSecond(1, 1), 0);
}

TEST(MachineProfileTest, InterpolatesKernels) {
  const MachineProfile profile = Profile();
  EXPECT_DOUBLE_EQ(profile.KernelSeconds(DType::kQ8_0, 1e9, 1), 0.1);
  EXPECT_DOUBLE_EQ(profile.KernelSeconds(DType::kQ8_0, 1e9, 8), 0.2);
  EXPECT_DOUBLE_EQ(profile.KernelSeconds(DType::kQ8_0, 1e9, 4.5), 0.15);
  EXPECT_DOUBLE_EQ(profile.KernelSeconds(DType::kQ8_0, 1e9, 1024), 1024 / 80.0);
  // Not measured: as the slowest.
  EXPECT_DOUBLE_EQ(profile.KernelSeconds(DType::kQ4_K, 1e9, 1), 0.5);
}

}  // namespace
}  // namespace hostler
