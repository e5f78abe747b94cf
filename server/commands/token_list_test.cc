#include "server/commands/token_list.h"

#include <cstdio>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(TokenListTest, TakesCommasSpaceAndJson) {
  for (const char* text : {"1,2,30", " 1 2\n30\n", "[1, 2, 30]", "1, 2,\t30", "[1,2,30]\n"}) {
    EXPECT_THAT(ParseTokenIds(text).value(), ElementsAre(1, 2, 30)) << text;
  }
  EXPECT_THAT(ParseTokenIds("").value(), IsEmpty());
  EXPECT_THAT(ParseTokenIds("[]").value(), IsEmpty());
}

TEST(TokenListTest, RefusesWhatIsNoId) {
  for (const char* text : {"-1", "1,x", "1.5", "99999999999", "[1,2", "1;2", "[[1]]", "\"1\""}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseTokenIds(text).status())) << text;
  }
}

TEST(TokenListTest, ReadsIdsFromAFile) {
  const std::string path = testing::TempDir() + "/hostler_ids.json";
  std::ofstream(path) << "[5,\n 6]\n";
  EXPECT_THAT(ReadTokensFlag("@" + path).value(), ElementsAre(5, 6));
  std::remove(path.c_str());
  EXPECT_TRUE(absl::IsNotFound(ReadTokensFlag("@" + path).status()));
}

TEST(TokenListTest, AnEmptyPromptIsAnError) {
  EXPECT_THAT(std::string(ReadTokensFlag(" ").status().message()), HasSubstr("no token ids"));
}

}  // namespace
}  // namespace hostler
