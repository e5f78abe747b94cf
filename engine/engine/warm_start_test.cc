#include "engine/engine/warm_start.h"

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "engine/weights/source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr PolicyShape kShape = {2, 3};
const std::string kModel = "0123456789abcdef0123456789abcdef";
const Popularity kRates = {2, 3, {0.5f, 0, 0.25f, 0.125f, 1, 0.25f}};

class WarmStartTest : public ::testing::Test {
 protected:
  WarmStartTest()
      : folder_(fs::path(::testing::TempDir()) / ("warm_start_" + std::to_string(getpid()))),
        file_((folder_ / "popularity").string()) {
    fs::create_directories(folder_);
  }
  ~WarmStartTest() override { fs::remove_all(folder_); }

  void Write(const std::string& bytes) { std::ofstream(file_, std::ios::binary) << bytes; }
  std::string Read() const {
    std::ifstream file(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  WarmStart::Options Options() {
    return {.path = file_,
            .fingerprint = kModel,
            .shape = kShape,
            .warn = [this](const std::string& text) { warnings_.push_back(text); }};
  }

  absl::StatusCode CodeOfReading(const std::string& bytes) {
    Write(bytes);
    const auto read = ReadPopularity(file_, kShape, kModel);
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(file_));
    return read.status().code();
  }

  const fs::path folder_;
  const std::string file_;
  std::vector<std::string> warnings_;
};

TEST_F(WarmStartTest, AFileGivesBackWhatWasWritten) {
  ASSERT_TRUE(WritePopularity(file_, kRates, kModel).ok());
  const auto read = ReadPopularity(file_, kShape, kModel);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->rate, kRates.rate);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "nothing else is left";
}

TEST_F(WarmStartTest, AnyDamageIsFound) {
  ASSERT_TRUE(WritePopularity(file_, kRates, kModel).ok());
  const std::string good = Read();
  ASSERT_EQ(good.size(), 48 + 6 * 4 + 8);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] ^= 4;
    // Without its first letters it is anybody's.
    EXPECT_EQ(CodeOfReading(bad),
              i < 8 ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kDataLoss)
        << i;
    const std::string cut = good.substr(0, i);
    EXPECT_EQ(CodeOfReading(cut),
              i < 48 ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kDataLoss)
        << i;
  }
  EXPECT_EQ(CodeOfReading(good + "x"), absl::StatusCode::kDataLoss);
  // Numbers that no checksum forbids.
  for (const float rate : {-1.0f, 2.0f, std::numeric_limits<float>::quiet_NaN()}) {
    Popularity bad = kRates;
    bad.rate[3] = rate;
    ASSERT_TRUE(WritePopularity(file_, bad, kModel).ok());
    EXPECT_EQ(ReadPopularity(file_, kShape, kModel).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(WarmStartTest, AnotherModelsFileIsNotUsed) {
  ASSERT_TRUE(WritePopularity(file_, kRates, kModel).ok());
  EXPECT_EQ(ReadPopularity(file_, kShape, std::string(32, 'f')).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadPopularity(file_, {3, 2}, kModel).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(WarmStartTest, MostPopularAreThoseThatWereUsedInOrder) {
  EXPECT_THAT(MostPopular(kRates), ElementsAre(ExpertKey{1, 1}, ExpertKey{0, 0}, ExpertKey{0, 2},
                                               ExpertKey{1, 2}, ExpertKey{1, 0}));
  EXPECT_THAT(MostPopular({}), IsEmpty());
}

TEST_F(WarmStartTest, KeepsFromRunToRunAndTheFirstRunIsSilent) {
  {
    Popularity now = {2, 3, std::vector<float>(6)};
    WarmStart first(Options());
    EXPECT_THAT(first.last().rate, IsEmpty());
    first.KeepSaving([&now] { return now; });
    first.Save();
    EXPECT_FALSE(fs::exists(file_)) << "nothing has happened";
    now = kRates;
    now.rate[4] = 7;  // a policy's idea of a rate may be larger
  }
  WarmStart second(Options());
  EXPECT_EQ(second.last().rate, kRates.rate);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(WarmStartTest, SavesEveryNowAndThen) {
  WarmStart::Options options = Options();
  options.interval = std::chrono::milliseconds(5);
  std::atomic<int> calls = 0;
  WarmStart warm_start(std::move(options));
  warm_start.KeepSaving([&calls] {
    Popularity now = kRates;
    now.rate[0] = ++calls % 2;
    return now;
  });
  for (int i = 0; i < 6000 && calls < 4; ++i) usleep(5000);
  EXPECT_GE(calls, 4);
  EXPECT_TRUE(ReadPopularity(file_, kShape, kModel).ok());
}

TEST_F(WarmStartTest, WhatIsNoPopularityFileIsLeftAlone) {
  const std::string precious = "dear diary, " + std::string(100, '.');
  Write(precious);
  {
    Popularity now = kRates;
    WarmStart warm_start(Options());
    EXPECT_THAT(warm_start.last().rate, IsEmpty());
    warm_start.KeepSaving([&now] { return now; });
    now.rate[0] = 0;
    warm_start.Save();
  }
  EXPECT_EQ(Read(), precious);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("left as it is")));
}

TEST_F(WarmStartTest, ADamagedFileIsReplaced) {
  ASSERT_TRUE(WritePopularity(file_, kRates, kModel).ok());
  Write(Read().substr(0, 60));
  {
    Popularity now = {2, 3, std::vector<float>(6)};
    WarmStart warm_start(Options());
    EXPECT_THAT(warm_start.last().rate, IsEmpty());
    warm_start.KeepSaving([&now] { return now; });
    now = kRates;
  }
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("starts cold")));
  EXPECT_TRUE(ReadPopularity(file_, kShape, kModel).ok());
}

TEST_F(WarmStartTest, ADirectoryThatTakesNoFileIsToldOnce) {
  WarmStart::Options options = Options();
  options.path = (folder_ / "nowhere" / "popularity").string();
  {
    Popularity now = kRates;
    WarmStart warm_start(std::move(options));
    warm_start.KeepSaving([&now] { return now; });
    now.rate[0] = 0;
    warm_start.Save();
  }
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("nowhere")));
}

TEST_F(WarmStartTest, ASaveThatFailsIsToldOnceAndTriedAgain) {
  Popularity now = {2, 3, std::vector<float>(6)};
  WarmStart warm_start(Options());
  warm_start.KeepSaving([&now] { return now; });
  now = kRates;
  fs::create_directories(file_ + ".new/in the way");
  warm_start.Save();
  warm_start.Save();
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("not saved")));
  fs::remove_all(file_ + ".new");
  warm_start.Save();
  EXPECT_TRUE(ReadPopularity(file_, kShape, kModel).ok());
}

TEST(FingerprintTest, TellsModelsApart) {
  const auto moe = OpenWeights(HOSTLER_SOURCE_DIR "/models/sample-moe");
  const auto again = OpenWeights(HOSTLER_SOURCE_DIR "/models/sample-moe");
  const auto dense = OpenWeights(HOSTLER_SOURCE_DIR "/models/sample-dense");
  ASSERT_TRUE(moe.ok() && again.ok() && dense.ok());
  EXPECT_EQ(FingerprintModel(**moe).size(), 32u);
  EXPECT_EQ(FingerprintModel(**moe), FingerprintModel(**again));
  EXPECT_NE(FingerprintModel(**moe), FingerprintModel(**dense));
}

}  // namespace
}  // namespace hostler
