#include "engine/weights/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "engine/weights/test_files.h"

namespace hostler {
namespace {

using ::testing::HasSubstr;

std::string Contents(const MappedFile& file) {
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

TEST(MappedFileTest, ShowsTheFilesBytes) {
  TempDir dir;
  auto file = MappedFile::Open(dir.Write("f", "some bytes"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Contents(**file), "some bytes");
  EXPECT_TRUE((*file)->Health().ok());
}

TEST(MappedFileTest, EmptyFileHasNoBytes) {
  TempDir dir;
  auto file = MappedFile::Open(dir.Write("f", ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->bytes().empty());
  EXPECT_TRUE((*file)->Health().ok());
}

TEST(MappedFileTest, MissingFileIsNotFound) {
  TempDir dir;
  const absl::Status status = MappedFile::Open(dir.file("nowhere")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir.file("nowhere")));
}

TEST(MappedFileTest, DirectoriesAndFifosAreRefusedWithoutWaiting) {
  TempDir dir;
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(mkfifo(dir.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(dir.file("fifo")).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(MappedFileTest, TruncatedFileReadsAsZerosAndSaysSo) {
  TempDir dir;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  auto victim = MappedFile::Open(dir.Write("victim", std::string(4 * page, 'x')));
  auto bystander = MappedFile::Open(dir.Write("bystander", std::string(4 * page, 'y')));
  ASSERT_TRUE(victim.ok() && bystander.ok());
  ASSERT_EQ(truncate(dir.file("victim").c_str(), static_cast<off_t>(page)), 0);

  const std::string contents = Contents(**victim);
  EXPECT_EQ(contents, std::string(page, 'x') + std::string(3 * page, '\0'));
  const absl::Status health = (*victim)->Health();
  EXPECT_EQ(health.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(health.message()), HasSubstr(dir.file("victim")));

  EXPECT_EQ(Contents(**bystander), std::string(4 * page, 'y'));
  EXPECT_TRUE((*bystander)->Health().ok());
}

TEST(MappedFileTest, ADamagedMappingStaysDamagedWhenTheFileGrowsBack) {
  TempDir dir;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  auto file = MappedFile::Open(dir.Write("f", std::string(2 * page, 'x')));
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate(dir.file("f").c_str(), 0), 0);
  EXPECT_EQ(Contents(**file), std::string(2 * page, '\0'));
  dir.Write("f", std::string(2 * page, 'x'));
  EXPECT_EQ((*file)->Health().code(), absl::StatusCode::kDataLoss);
}

TEST(MappedFileTest, ATruncationWithinTheLastPageIsNoticed) {
  TempDir dir;
  auto file = MappedFile::Open(dir.Write("f", "0123456789"));
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate(dir.file("f").c_str(), 5), 0);
  EXPECT_EQ((*file)->Health().code(), absl::StatusCode::kDataLoss);
}

TEST(MappedFileTest, DamageOfAnEarlierMappingIsNotInherited) {
  TempDir dir;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  {
    auto file = MappedFile::Open(dir.Write("f", std::string(page, 'x')));
    ASSERT_TRUE(file.ok());
    ASSERT_EQ(truncate(dir.file("f").c_str(), 0), 0);
    EXPECT_EQ(Contents(**file), std::string(page, '\0'));
  }
  auto file = MappedFile::Open(dir.Write("f", std::string(page, 'z')));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->Health().ok());
  EXPECT_EQ(Contents(**file), std::string(page, 'z'));
}

TEST(MappedFileTest, TooManyMappingsAreRefused) {
  TempDir dir;
  const std::string path = dir.Write("f", "x");
  rlimit descriptors;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &descriptors), 0);
  if (descriptors.rlim_max < 2 * MappedFile::kMaxMappings) GTEST_SKIP() << "too few descriptors";
  descriptors.rlim_cur = 2 * MappedFile::kMaxMappings;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &descriptors), 0);
  std::vector<std::unique_ptr<MappedFile>> files;
  absl::Status status;
  while (files.size() <= MappedFile::kMaxMappings) {
    auto file = MappedFile::Open(path);
    if (!file.ok()) {
      status = file.status();
      break;
    }
    files.push_back(*std::move(file));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(files.size(), MappedFile::kMaxMappings);
}

// Reads a byte past the end of a file that is mapped, but not by MappedFile.
void FaultElsewhere(const std::string& path) {
  FILE* file = fopen(path.c_str(), "r");
  void* address = mmap(nullptr, 1 << 20, PROT_READ, MAP_SHARED, fileno(file), 0);
  volatile char c = static_cast<volatile char*>(address)[(1 << 20) - 1];
  (void)c;
}

using MappedFileDeathTest = ::testing::Test;

TEST(MappedFileDeathTest, AnUnrelatedFaultStillKills) {
  TempDir dir;
  const std::string path = dir.Write("f", "short");
  auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_DEATH(FaultElsewhere(path), "");
}

TEST(MappedFileDeathTest, ASigbusThatWasSentStillKills) {
  TempDir dir;
  auto file = MappedFile::Open(dir.Write("f", "short"));
  ASSERT_TRUE(file.ok());
  EXPECT_DEATH(raise(SIGBUS), "");
}

}  // namespace
}  // namespace hostler
