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
