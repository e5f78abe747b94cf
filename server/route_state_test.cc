#include "server/route_state.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/base/checksum.h"
#include "engine/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

class RouteStateTest : public testing::Test {
 protected:
  RouteStateTest()
      : path_(testing::TempDir() + "route_state_" +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    Clean();
  }
  ~RouteStateTest() override { Clean(); }

  void Clean() {
    std::filesystem::remove(path_);
    std::filesystem::remove(path_ + ".bad");
  }

  static std::unique_ptr<ScoredRoutingPolicy> NewPolicy(const std::string& first = "small") {
    ScoredRoutingOptions options;
    options.targets = {{.target = first, .quality = 0.8}, {.target = "large", .quality = 0.7}};
    options.payer_day_usd = 1;
    options.day_usd = 5;
    return std::make_unique<ScoredRoutingPolicy>(options,
                                                 NewAffinity(NewBandit({.explore = 0}), 0.1));
  }

  Decision Decide(ScoredRoutingPolicy* policy, const std::string& first = "small") {
    const TargetSnapshot targets[] = {{.name = first}, {.name = "large"}};
    RouteFeatures features;
    features.wish.payer = 7;
    return policy->Decide(features, targets).value();
  }

  RouteState State(ScoredRoutingPolicy* policy) {
    return RouteState(path_, {{"auto", policy}}, &metrics_);
  }

  // A policy that has spent, and was told that small is bad, saved.
  void SaveOne() {
    const auto policy = NewPolicy();
    policy->budgets()->Reserve(7, Today(), 0.75);
    policy->budgets()->Reserve(std::nullopt, Today(), 2);
    for (int i = 0; i < 30; ++i) policy->Learn(Decide(policy.get()), "small", 0);
    EXPECT_EQ(Decide(policy.get()).target, "large");
    ASSERT_TRUE(State(policy.get()).Save().ok());
  }

  std::string Read() {
    std::ifstream in(path_);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

  void Write(const std::string& text) { std::ofstream(path_) << text; }
  void WriteState(const Json& own) {
    const std::string body = Json{{"auto", own}}.dump();
    Write("hostler-route-state 1 " + ChecksumText(Checksum(body)) + "\n" + body);
  }

  double Ok() {
    for (const auto& family : metrics_.Collect(nullptr)) {
      if (family.name == "hostler:route_state_ok") return family.metric.at(0).gauge.value;
    }
    return -1;
  }

  const std::string path_;
  RouteMetrics metrics_;
};

TEST_F(RouteStateTest, KeepsWhatWasSpentAndLearned) {
  SaveOne();
  const auto policy = NewPolicy();
  EXPECT_EQ(Decide(policy.get()).target, "small");
  ASSERT_TRUE(State(policy.get()).Load().ok());
  EXPECT_EQ(Ok(), 1);
  EXPECT_EQ(Decide(policy.get()).target, "large");
  EXPECT_EQ(policy->budgets()->Left(7, Today()), 0.25);
  EXPECT_EQ(policy->budgets()->Left(8, Today()), 1);
  EXPECT_EQ(policy->budgets()->Left(std::nullopt, Today()), 5 - 2.75);
  EXPECT_EQ(policy->budgets()->Left(7, Today() + 1), 1) << "a new day";
}

TEST_F(RouteStateTest, WithoutAFileItBeginsAnew) {
  const auto policy = NewPolicy();
  EXPECT_TRUE(State(policy.get()).Load().ok());
  EXPECT_EQ(Ok(), 1);
}

TEST_F(RouteStateTest, TargetsAreFoundByNameAndNewOnesKnowNothing) {
  SaveOne();
  const auto policy = NewPolicy("other");
  ASSERT_TRUE(State(policy.get()).Load().ok());
  EXPECT_EQ(Decide(policy.get(), "other").target, "other");
}

TEST_F(RouteStateTest, ADamagedFileIsPutAsideAndNothingOfItIsTaken) {
  SaveOne();
  const std::string good = Read();
  std::string flipped = good;
  flipped[good.size() / 2] ^= 1;
  for (const std::string& bad :
       {good.substr(0, good.size() / 2), flipped, std::string("nonsense"), std::string("\0\n", 2),
        "hostler-route-state 2" + good.substr(21)}) {
    Write(bad);
    const auto policy = NewPolicy();
    RouteState state(path_, {{"auto", policy.get()}}, &metrics_);
    EXPECT_TRUE(absl::IsDataLoss(state.Load()));
    EXPECT_EQ(Ok(), 0);
    EXPECT_EQ(Decide(policy.get()).target, "small");
    EXPECT_EQ(policy->budgets()->Left(7, Today()), 1);
    EXPECT_TRUE(std::filesystem::exists(path_ + ".bad"));
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
}

TEST_F(RouteStateTest, ValuesThatMakeNoSenseAreRefusedByName) {
  SaveOne();
  const std::string good = Read();
  const Json own = Json::parse(good.substr(good.find('\n')))["auto"];
  const auto refused = [&](const char* pointer, const Json& value) {
    Json changed = own;
    changed[Json::json_pointer(pointer)] = value;
    WriteState(changed);
    const auto policy = NewPolicy();
    RouteState state(path_, {{"auto", policy.get()}}, &metrics_);
    const absl::Status status = state.Load();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << pointer << " " << value << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("auto: "));
    EXPECT_EQ(Ok(), 0);
    EXPECT_EQ(Decide(policy.get()).target, "small");
  };
  refused("/budgets", 3);
  refused("/budgets/spent", -1);
  refused("/budgets/spent", "much");
  refused("/budgets/day", Today() + 2);
  refused("/budgets/payers", Json{{7}});
  refused("/budgets/payers", Json{{-7, 1.5}});
  refused("/learned", Json::array());
  refused("/learned/small", Json::object());
  refused("/learned/small/moment", Json{1, 2, 3});
  refused("/learned/small/precision/0/0", -1);
  refused("/learned/small/precision/0/1", 1e6);
  refused("/learned/small/precision/2/2", 1e300);
  refused("/learned/small/precision/1", Json{1, 2, 3, "x"});
}

TEST_F(RouteStateTest, IsWrittenAtItsEnd) {
  const auto policy = NewPolicy();
  {
    RouteState state(path_, {{"auto", policy.get()}}, &metrics_);
    ASSERT_TRUE(state.Load().ok());
    state.Start();
    policy->budgets()->Reserve(7, Today(), 0.5);
  }
  const auto next = NewPolicy();
  ASSERT_TRUE(State(next.get()).Load().ok());
  EXPECT_EQ(next->budgets()->Left(7, Today()), 0.5);
}

TEST_F(RouteStateTest, APlaceThatCannotBeWrittenIsSaid) {
  const auto policy = NewPolicy();
  RouteState state("/nowhere/state", {{"auto", policy.get()}}, &metrics_);
  const absl::Status saved = state.Save();
  EXPECT_TRUE(absl::IsNotFound(saved));
  EXPECT_THAT(std::string(saved.message()), HasSubstr("route_state: cannot write /nowhere/state"));
}

}  // namespace
}  // namespace hostler
