#include "cache/pins.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const int kExperts[] = {8, 4};

std::string ErrorOf(std::string_view text) {
  const auto pins = ParsePins(text, kExperts);
  EXPECT_TRUE(absl::IsInvalidArgument(pins.status())) << text;
  return std::string(pins.status().message());
}

TEST(PinsTest, ReadsExpertsRangesAndComments) {
  const auto pins = ParsePins("# hot\n\n 1 3 # last\r\n0 2-4\n0\t4\n0 7", kExperts);
  ASSERT_TRUE(pins.ok()) << pins.status();
  EXPECT_THAT(*pins, ElementsAre(ExpertKey{0, 2}, ExpertKey{0, 3}, ExpertKey{0, 4}, ExpertKey{0, 7},
                                 ExpertKey{1, 3}));
  EXPECT_TRUE(ParsePins("", kExperts)->empty());
}

TEST(PinsTest, ErrorsNameTheLine) {
  EXPECT_THAT(ErrorOf("0 1\n0\n"), HasSubstr("line 2: is not"));
  EXPECT_THAT(ErrorOf("\n\n2 0"), HasSubstr("line 3: there is no layer 2"));
  EXPECT_THAT(ErrorOf("1 4"), HasSubstr("line 1: there is no expert 4; layer 1 has 4"));
  EXPECT_THAT(ErrorOf("0 5-2"), HasSubstr("backwards"));
  for (const char* bad : {"0 -1", "-1 0", "0 1-", "0 -", "0 1-2-3", "a b", "0 1 2", "0 99999999999",
                          "0 0x1", "0,1", "0 1-8"}) {
    EXPECT_THAT(ErrorOf(bad), HasSubstr("line 1: ")) << bad;
  }
}

}  // namespace
}  // namespace hostler
