// What packing leaves behind when all goes well, and when it does not. That a
// store answers as its source does is tested in engine/engine.
#include "engine/model/pack.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/model/model_text.h"
#include "engine/model/pack_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

const fs::path kDense = fs::path(HOSTLER_SOURCE_DIR) / "models/sample-dense";

std::vector<std::string> NamesIn(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

class PackTest : public ::testing::Test {
 protected:
  PackTest() {
    root_ = fs::path(::testing::TempDir()) /
            (std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
             std::to_string(::getpid()));
    fs::create_directories(root_);
    target_ = root_ / "store";
  }
  ~PackTest() override { fs::remove_all(root_); }

  absl::Status Pack(PackOptions options = {}) {
    return PackModel(kDense.string(), target_.string(), options).status();
  }

  fs::path root_, target_;
};

TEST_F(PackTest, LeavesAStoreThatNeedsNothingElse) {
  const absl::Status status = Pack();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(NamesIn(root_), ElementsAre("store"));
  EXPECT_THAT(NamesIn(target_), UnorderedElementsAre("dense.bin", "manifest.json", "manifest.xxh3",
                                                     "tokenizer.json", "tokenizer_config.json"));
  const auto text = LoadModelText(target_.string());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_NE(text->tokenizer, nullptr);
}

TEST_F(PackTest, ReplacesOnlyStoresAndOnlyWhenAsked) {
  ASSERT_TRUE(Pack().ok());
  const absl::Status again = Pack({.type = PackType::kQ8});
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  EXPECT_EQ((*OpenPacked(target_.string()))->manifest().type, "keep");

  const absl::Status replaced = Pack({.type = PackType::kQ8, .replace = true});
  EXPECT_TRUE(replaced.ok()) << replaced;
  EXPECT_EQ((*OpenPacked(target_.string()))->manifest().type, "q8");
  EXPECT_THAT(NamesIn(root_), ElementsAre("store"));

  fs::remove_all(target_);
  fs::create_directory(target_);
  EXPECT_TRUE(Pack({.replace = true}).ok()) << "an empty directory";
  fs::remove(target_ / "manifest.json");
  const absl::Status other = Pack({.replace = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(NamesIn(root_), ElementsAre("store"));
}

TEST_F(PackTest, PacksAStoreOntoItself) {
  ASSERT_TRUE(Pack().ok());
  const auto summary =
      PackModel(target_.string(), target_.string(), {.type = PackType::kQ8, .replace = true});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_TRUE(CheckPackedModel(target_.string()).ok());
}

TEST_F(PackTest, AnInterruptionLeavesNothing) {
  int calls = 0;
  const absl::Status status = Pack({.progress = [&](uint64_t, uint64_t) { return ++calls < 5; }});
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(calls, 5);
  EXPECT_THAT(NamesIn(root_), IsEmpty());
}

TEST_F(PackTest, AWriteErrorIsToldAndLeavesTheOldStore) {
  ASSERT_TRUE(Pack({.type = PackType::kQ8}).ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = Pack({.replace = true});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("dense.bin: write at 100000"));
  EXPECT_THAT(NamesIn(root_), ElementsAre("store"));
  EXPECT_EQ((*OpenPacked(target_.string()))->manifest().type, "q8");
}

TEST_F(PackTest, AReadErrorIsToldAndLeavesNothing) {
  const fs::path source = root_ / "source";
  fs::copy(kDense, source);
  const fs::path weights = source / "model.safetensors";
  fs::permissions(weights, fs::perms::owner_all);
  const uint64_t bytes = fs::file_size(weights);
  // Cut off while it is being packed.
  const auto cut = [&](uint64_t done, uint64_t total) {
    if (done > total / 4) fs::resize_file(weights, bytes / 2);
    return true;
  };
  const absl::Status status =
      PackModel(source.string(), target_.string(), {.progress = cut}).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors: the file ends"));
  EXPECT_THAT(NamesIn(root_), ElementsAre("source"));
}

TEST_F(PackTest, WhatAKilledPackLeftIsRemoved) {
  const fs::path left = root_ / "store.partial-123";
  fs::create_directory(left);
  std::ofstream(left / "dense.bin") << "half";
  EXPECT_TRUE(Pack().ok());
  EXPECT_THAT(NamesIn(root_), ElementsAre("store"));
}

TEST_F(PackTest, TwoDoNotPackToOnePlace) {
  auto first = PackDirectory::Create(target_.string(), false);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = Pack();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr("another process is packing"));
  EXPECT_TRUE(fs::exists((*first)->PathOf("")));
}

TEST_F(PackTest, ToldBeforehandThatTheDiskIsTooSmall) {
  auto directory = PackDirectory::Create(target_.string() + "/", false);
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_TRUE((*directory)->CheckSpace(1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted((*directory)->CheckSpace(uint64_t{1} << 60)));
}

TEST_F(PackTest, NeedsTheDirectoryAround) {
  const absl::Status status =
      PackModel(kDense.string(), (root_ / "absent/store").string(), {}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST(PackTypeTest, NamesAreKnown) {
  EXPECT_EQ(*ParsePackType("q4"), PackType::kQ4);
  EXPECT_THAT(std::string(ParsePackType("q5").status().message()), HasSubstr("\"q5\" is not keep"));
}

}  // namespace
}  // namespace hostler
