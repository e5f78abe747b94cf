#include "server/plan/box_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace hostler {
namespace {

class BoxReportTest : public ::testing::Test {
 protected:
  BoxReportTest() : root_(::testing::TempDir() + "/box" + std::to_string(getpid())) {
    Write("/models/small.bin", "x");
  }
  ~BoxReportTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  Finding Find(const std::string& name) {
    for (const Finding& finding : ExamineBox({disk_.empty() ? root_ + "/models" : disk_, root_})) {
      if (finding.name == name) return finding;
    }
    ADD_FAILURE() << "nothing about " << name;
    return {};
  }

  const std::string root_;
  std::string disk_;
};

TEST_F(BoxReportTest, SwapInUseIsAHint) {
  Write("/proc/meminfo", "MemTotal: 100 kB\nSwapTotal:  2097152 kB\nSwapFree:  1048576 kB\n");
  const Finding used = Find("swap");
  EXPECT_EQ(used.level, Finding::Level::kHint);
  EXPECT_EQ(used.state, "1.00 GiB of 2.00 GiB in use");
  EXPECT_NE(used.advice, "");
  Write("/proc/meminfo", "SwapTotal:  2097152 kB\nSwapFree:  2097152 kB\n");
  EXPECT_EQ(Find("swap").level, Finding::Level::kGood);
  Write("/proc/meminfo", "SwapTotal:  0 kB\nSwapFree:  0 kB\n");
  EXPECT_EQ(Find("swap").state, "none");
}

TEST_F(BoxReportTest, HugePagesAndTheClockCanBeWrong) {
  const std::string pages = "/sys/kernel/mm/transparent_hugepage/enabled";
  const std::string governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
  Write(pages, "always madvise [never]\n");
  Write(governor, "powersave\n");
  EXPECT_EQ(Find("huge pages").level, Finding::Level::kHint);
  EXPECT_EQ(Find("clock").level, Finding::Level::kHint);
  Write(pages, "always [madvise] never\n");
  Write(governor, "performance\n");
  EXPECT_EQ(Find("huge pages").level, Finding::Level::kGood);
  EXPECT_EQ(Find("clock").level, Finding::Level::kGood);
}

TEST_F(BoxReportTest, AModelThatIsNotThereIsAProblem) {
  EXPECT_NE(Find("disk").level, Finding::Level::kProblem);
  disk_ = root_ + "/models/nothing";
  EXPECT_EQ(Find("disk").level, Finding::Level::kProblem);
  EXPECT_NE(Find("disk").state.find("nothing"), std::string::npos);
}

TEST_F(BoxReportTest, TheLargestFileIsTriedAlsoBelowAndBehindLinks) {
  Write("/models/one/two/middle.bin", "xx");
  EXPECT_NE(Find("disk").state.find("middle.bin"), std::string::npos);
  Write("/blobs/large", "xxx");
  std::filesystem::create_symlink("../../blobs/large", root_ + "/models/one/link.bin");
  std::filesystem::create_symlink("nowhere", root_ + "/models/one/broken");
  EXPECT_NE(Find("disk").state.find("link.bin"), std::string::npos);
}

TEST_F(BoxReportTest, WhatHoldsNoFileIsNotGood) {
  disk_ = root_ + "/empty";
  std::filesystem::create_directory(disk_);
  EXPECT_EQ(Find("disk").level, Finding::Level::kHint);
  disk_ = "/dev/null";
  EXPECT_EQ(Find("disk").level, Finding::Level::kProblem);
}

TEST_F(BoxReportTest, AdviceComesWithWhatIsNotGood) {
  for (const Finding& finding : ExamineBox({root_ + "/models", root_})) {
    EXPECT_EQ(finding.advice.empty(), finding.level == Finding::Level::kGood) << finding.name;
    EXPECT_NE(finding.state, "") << finding.name;
  }
}

TEST(GpuReportTest, TellsOfEach) {
  Gpu gpu;
  gpu.index = 1;
  gpu.name = "NVIDIA Something";
  gpu.major = 9;
  gpu.memory_bytes = uint64_t{80} << 30;
  gpu.free_bytes = uint64_t{79} << 30;
  gpu.memory_bytes_s = 3352e9;
  gpu.driver = 12040;
  gpu.runtime = 12000;
  Gpu old = gpu, full = gpu;
  old.major = 7;
  old.minor = 5;
  full.free_bytes = uint64_t{3} << 30;
  const std::vector<Finding> findings = ExamineGpus(std::vector<Gpu>{gpu, old, full});
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[0].level, Finding::Level::kGood);
  for (const char* part : {"cuda:1: NVIDIA Something, sm 9.0", "79.0 GiB free of 80.0 GiB",
                           "3352 GB/s", "driver 12.4, runtime 12.0"}) {
    EXPECT_NE(findings[0].state.find(part), std::string::npos) << findings[0].state;
  }
  EXPECT_NE(findings[1].advice.find("older"), std::string::npos);
  EXPECT_NE(findings[2].advice.find("nvidia-smi"), std::string::npos);
  const auto none = ExamineGpus(absl::NotFoundError("no usable GPU"));
  EXPECT_EQ(none[0].level, Finding::Level::kHint);
  const auto no_cuda = ExamineGpus(absl::FailedPreconditionError("this build has no CUDA"));
  EXPECT_EQ(no_cuda[0].level, Finding::Level::kGood);
}

}  // namespace
}  // namespace hostler
