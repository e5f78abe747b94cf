#include "cache/reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>

#include "cache/read_plan.h"
#include "cache/tier.h"

namespace hostler {
namespace {

using ::testing::HasSubstr;
using Method = ReaderOptions::Method;

struct Kind {
  Method method;
  DirectIo direct;
};

std::string Name(const Kind& kind) {
  return std::string(kind.method == Method::kUring ? "Uring" : "Pread") +
         (kind.direct == DirectIo::kOn     ? "Direct"
          : kind.direct == DirectIo::kAuto ? "Auto"
                                           : "Buffered");
}

class ReaderTest : public ::testing::TestWithParam<Kind> {
 protected:
  ReaderTest() {
    // Not in /tmp, which may be memory that knows no O_DIRECT.
    std::string name = (std::filesystem::current_path() / "hostler_cache_XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~ReaderTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  std::string Write(const std::string& name, const std::string& contents) const {
    std::ofstream(directory_ / name, std::ios::binary) << contents;
    return (directory_ / name).string();
  }

  std::unique_ptr<Reader> Open(std::span<const std::string> paths, uint64_t max_bytes = 64,
                               int max_extents = 4, int depth = 4) {
    auto reader = NewReader(paths, {.method = GetParam().method,
                                    .direct = GetParam().direct,
                                    .depth = depth,
                                    .max_bytes = max_bytes,
                                    .max_extents = max_extents});
    if (reader.status().code() == absl::StatusCode::kUnimplemented) return nullptr;
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }

  std::filesystem::path directory_;
};

#define OPEN_OR_SKIP(...) \
  Open(__VA_ARGS__);      \
  if (reader == nullptr) GTEST_SKIP() << "this kernel has no io_uring"

std::string ReadText(Reader* reader, std::span<const Extent> extents, absl::Status* status) {
  size_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  std::string text(bytes, '?');
  reader->Start(0, extents, std::as_writable_bytes(std::span(text)));
  Reader::Done done;
  EXPECT_TRUE(reader->Wait(&done));
  EXPECT_EQ(done.id, 0);
  *status = done.status;
  return text;
}

TEST_P(ReaderTest, GathersExtentsOfSeveralFiles) {
  const std::array<std::string, 2> paths = {Write("a", "0123456789"), Write("b", "abcdef")};
  auto reader = OPEN_OR_SKIP(paths);
  absl::Status status;
  const std::array<Extent, 4> extents = {{{0, 2, 5}, {1, 0, 6}, {1, 3, 0}, {0, 9, 1}}};
  if (GetParam().direct == DirectIo::kOff) {
    EXPECT_FALSE(reader->direct());
  }
  EXPECT_EQ(ReadText(reader.get(), extents, &status), "23456abcdef9");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadText(reader.get(), std::span(extents).subspan(2, 1), &status), "");
  EXPECT_TRUE(status.ok()) << status;
}

// Bytes that differ wherever a read could go astray.
std::string Noise(size_t bytes) {
  std::string text(bytes, '\0');
  std::mt19937 random(7);
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

TEST_P(ReaderTest, ReadsAtEveryAlignment) {
  const std::string noise = Noise(5 * 4096 + 123);
  const std::array<std::string, 1> paths = {Write("noise", noise)};
  auto reader = OPEN_OR_SKIP(paths, 3 * 4096 + 200, 3);
  for (const uint64_t offset : {0, 1, 4095, 4096, 4097, 8192}) {
    for (const uint64_t bytes : {1, 4095, 4096, 4097, 8192, 12288}) {
      const std::array<Extent, 3> extents = {
          {{0, offset, bytes}, {0, noise.size() - 100, 100}, {0, 4096, 50}}};
      absl::Status status;
      const std::string text = ReadText(reader.get(), extents, &status);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(text, noise.substr(offset, bytes) + noise.substr(noise.size() - 100) +
                          noise.substr(4096, 50))
          << offset << " " << bytes;
    }
  }
}

TEST_P(ReaderTest, ReadsStraightIntoASlotAndNoFurther) {
  constexpr size_t kBytes = 2 * 4096 + 100;  // leaves most of the slot's last page
  const std::string noise = Noise(3 * 4096 + kBytes);
  const std::array<std::string, 1> paths = {Write("noise", noise)};
  auto reader = OPEN_OR_SKIP(paths, /*max_bytes=*/0, 1);
  const SlotClass slots{kBytes, 2};
  auto tier = NewDramTier({&slots, 1});
  ASSERT_TRUE(tier.ok());
  const std::span<std::byte> slot = (*tier)->slot(0), other = (*tier)->slot(1);
  ASSERT_EQ(slot.size(), size_t{3 * 4096});
  std::fill(other.begin(), other.end(), std::byte{'?'});
  for (const uint64_t offset : {0, 4096, 3 * 4096}) {  // the last: the file's end
    const std::array<Extent, 2> extents = {{{0, offset, 4096}, {0, offset + 4096, kBytes - 4096}}};
    EXPECT_TRUE(ReadsInPlace(extents));
    reader->Start(0, extents, slot);
    Reader::Done done;
    ASSERT_TRUE(reader->Wait(&done));
    ASSERT_TRUE(done.status.ok()) << done.status;
    EXPECT_EQ(std::memcmp(slot.data(), noise.data() + offset, kBytes), 0) << offset;
  }
  EXPECT_EQ(std::count(other.begin(), other.end(), std::byte{'?'}), 3 * 4096);
}

TEST_P(ReaderTest, WritesNothingBeyondMemoryThatEndsWithinAPage) {
  constexpr size_t kBytes = 4096 + 100;
  const std::string noise = Noise(4 * 4096);
  const std::array<std::string, 1> paths = {Write("noise", noise)};
  auto reader = OPEN_OR_SKIP(paths, kBytes, 1);
  const SlotClass slots{kBytes, 1};
  auto tier = NewDramTier({&slots, 1});
  ASSERT_TRUE(tier.ok());
  const std::span<std::byte> slot = (*tier)->slot(0);
  for (const size_t room : {kBytes, slot.size() - 1}) {
    std::fill(slot.begin(), slot.end(), std::byte{'?'});
    const Extent extent{0, 4096, kBytes};
    reader->Start(0, {&extent, 1}, slot.first(room));
    Reader::Done done;
    ASSERT_TRUE(reader->Wait(&done));
    ASSERT_TRUE(done.status.ok()) << done.status;
    EXPECT_EQ(std::memcmp(slot.data(), noise.data() + 4096, kBytes), 0);
    EXPECT_EQ(std::count(slot.begin() + kBytes, slot.end(), std::byte{'?'}), slot.size() - kBytes);
  }
}

TEST(ReadPlanTest, NeedsABufferWhereFilePagesAndMemoryDiffer) {
  const Extent aligned{0, 4096, 8192}, shifted{0, 100, 8192}, ragged{0, 4096, 100};
  const Extent other{1, 0, 4096};
  EXPECT_TRUE(ReadsInPlace(std::array{aligned}));
  EXPECT_TRUE(ReadsInPlace(std::array{ragged}));
  EXPECT_TRUE(ReadsInPlace(std::array{aligned, other}));
  EXPECT_FALSE(ReadsInPlace(std::array{shifted}));
  EXPECT_FALSE(ReadsInPlace(std::array{ragged, other})) << "the ragged page would cover the other";
}

TEST_P(ReaderTest, ManyReadsFromSeveralThreads) {
  constexpr int kReads = 400, kBytes = 3000;
  const std::string noise = Noise(kReads * 100 + kBytes);
  const std::array<std::string, 1> paths = {Write("noise", noise)};
  auto reader = OPEN_OR_SKIP(paths, kBytes, 2, 8);
  std::vector<std::array<Extent, 2>> extents(reader->depth());
  std::vector<std::string> texts(reader->depth(), std::string(kBytes, '?'));
  std::vector<int> started(reader->depth());
  std::mutex mutex;
  int next = 0, wrong = 0, taken = 0;
  const auto start = [&](int id) {
    const uint64_t offset = 100 * (started[id] = next++);
    extents[id] = {{{0, offset + 1000, 2000}, {0, offset, 1000}}};
    reader->Start(id, extents[id], std::as_writable_bytes(std::span(texts[id])));
  };
  for (int id = 0; id < reader->depth(); ++id) start(id);
  std::vector<std::thread> waiters;
  for (int t = 0; t < 3; ++t) {
    waiters.emplace_back([&] {
      Reader::Done done;
      while (reader->Wait(&done)) {
        std::lock_guard lock(mutex);
        const size_t offset = 100 * started[done.id];
        wrong += !done.status.ok() ||
                 texts[done.id] != noise.substr(offset + 1000, 2000) + noise.substr(offset, 1000);
        if (next < kReads) start(done.id);
        if (++taken == kReads) reader->Stop();
      }
    });
  }
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(taken, kReads);
  EXPECT_EQ(wrong, 0);
}

TEST_P(ReaderTest, AShortFileIsDataLossNamingFileAndOffset) {
  const std::array<std::string, 1> paths = {Write("short", "0123456789")};
  auto reader = OPEN_OR_SKIP(paths);
  absl::Status status;
  const std::array<Extent, 2> extents = {{{0, 4, 10}, {0, 0, 2}}};
  ReadText(reader.get(), extents, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(paths[0]));
  EXPECT_THAT(std::string(status.message()), HasSubstr("offset"));
  // The reader lives.
  EXPECT_EQ(ReadText(reader.get(), std::span(extents).subspan(1), &status), "01");
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(ReaderTest, AFileTruncatedLaterIsDataLoss) {
  const std::array<std::string, 1> paths = {Write("file", Noise(3 * 4096))};
  auto reader = OPEN_OR_SKIP(paths, 3 * 4096);
  std::filesystem::resize_file(paths[0], 5000);
  absl::Status status;
  const std::array<Extent, 1> extents = {{{0, 0, 3 * 4096}}};
  ReadText(reader.get(), extents, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

TEST_P(ReaderTest, WhatCannotBeReadIsUnavailable) {
  const std::array<std::string, 1> paths = {directory_.string()};
  auto reader = OPEN_OR_SKIP(paths);
  absl::Status status;
  const std::array<Extent, 1> extents = {{{0, 0, 10}}};
  ReadText(reader.get(), extents, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Is a directory"));
}

TEST_P(ReaderTest, StopEndsWaitingAndReadsUnderWayAreFinished) {
  const std::array<std::string, 1> paths = {Write("noise", Noise(1 << 20))};
  std::string text(1 << 20, '?');
  const std::array<Extent, 1> extents = {{{0, 0, 1 << 20}}};
  auto reader = OPEN_OR_SKIP(paths, 1 << 20);
  std::thread waiter([&] {
    Reader::Done done;
    while (reader->Wait(&done)) {
    }
  });
  reader->Start(1, extents, std::as_writable_bytes(std::span(text)));
  reader->Stop();
  waiter.join();
  Reader::Done done;
  EXPECT_FALSE(reader->Wait(&done));
  reader = nullptr;
  EXPECT_EQ(text, Noise(1 << 20));
}

TEST_P(ReaderTest, ReadsWhatThePageCacheHasInPartOnly) {
  const std::string noise = Noise(64 * 4096 + 17);
  const std::array<std::string, 1> paths = {Write("noise", noise)};
  const int file = open(paths[0].c_str(), O_RDWR);
  ASSERT_EQ(fsync(file), 0);
  const auto drop = [file](int first, int pages) {
    return posix_fadvise(file, first * 4096, pages * 4096, POSIX_FADV_DONTNEED);
  };
  auto reader = OPEN_OR_SKIP(paths, noise.size() + 4096);
  const std::array<Extent, 1> extents = {{{0, 0, noise.size()}}};
  for (const int first : {40, 7, 1, 0}) {  // and all before it is there
    ASSERT_EQ(drop(first, 64), 0);
    absl::Status status;
    EXPECT_EQ(ReadText(reader.get(), extents, &status), noise) << first;
    EXPECT_TRUE(status.ok()) << status;
  }
  close(file);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, ReaderTest,
    ::testing::Values(Kind{Method::kUring, DirectIo::kOn}, Kind{Method::kUring, DirectIo::kAuto},
                      Kind{Method::kUring, DirectIo::kOff}, Kind{Method::kPread, DirectIo::kOn},
                      Kind{Method::kPread, DirectIo::kAuto}, Kind{Method::kPread, DirectIo::kOff}),
    [](const auto& info) { return Name(info.param); });

TEST(NewReaderTest, AMissingFileIsNotFoundNamingIt) {
  const std::array<std::string, 1> paths = {"/nowhere/at/all"};
  const auto reader = NewReader(paths, {.max_bytes = 1});
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("/nowhere/at/all"));
}

TEST(NewReaderTest, DirectReadsAreRefusedWhereAFileSystemHasNone) {
  const std::array<std::string, 1> paths = {"/proc/self/cmdline"};
  EXPECT_TRUE(NewReader(paths, {.max_bytes = 1}).ok());
  EXPECT_TRUE(NewReader(paths, {.direct = DirectIo::kOff, .max_bytes = 1}).ok());
  const auto reader = NewReader(paths, {.direct = DirectIo::kOn, .max_bytes = 1});
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("/proc/self/cmdline"));
}

TEST(NewReaderTest, AFileThatMayNotBeReadIsPermissionDenied) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read anything";
  const std::array<std::string, 1> paths = {"/etc/shadow"};
  EXPECT_EQ(NewReader(paths, {.max_bytes = 1}).status().code(),
            absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace hostler
