#include "engine/text/chat_template.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Real templates against Hugging Face's output.
class GoldenTemplates : public testing::TestWithParam<std::string> {};

const std::string kGolden = HOSTLER_SOURCE_DIR "/../shared/golden/chat-templates";

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden + "/templates", error)) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  if (names.empty()) names.push_back("none");
  return names;
}

TEST_P(GoldenTemplates, PrintWhatHuggingFacePrints) {
  const std::string source = ReadFile(kGolden + "/templates/" + GetParam() + ".jinja");
  if (source.empty()) GTEST_SKIP() << kGolden << " is not there";
  const ordered_json cases = ordered_json::parse(ReadFile(kGolden + "/cases.json"));
  const ordered_json expected =
      ordered_json::parse(ReadFile(kGolden + "/expected.json"))[GetParam()];
  auto parsed = ParseChatTemplate(source);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  int checked = 0;
  for (const ordered_json& c : cases["cases"]) {
    const auto name = c["name"].get<std::string>();
    SCOPED_TRACE(name);
    ordered_json variables = cases["globals"];
    variables["now"] = cases["now"];
    variables["messages"] = c["messages"];
    variables["tools"] = c.contains("tools") ? c["tools"] : ordered_json();
    variables["documents"] = nullptr;
    variables["add_generation_prompt"] = c.value("add_generation_prompt", false);
    if (c.contains("extra")) variables.update(c["extra"]);
    const auto text = (*parsed)->Render(variables);
    const ordered_json& want = expected[name];
    if (want.contains("text")) {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, want["text"].get<std::string>());
    } else {
      ASSERT_FALSE(text.ok()) << *text;
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      if (want.contains("raised")) {
        EXPECT_EQ(std::string(text.status().message()), want["raised"].get<std::string>());
      }
    }
    ++checked;
  }
  EXPECT_EQ(checked, expected.size());
}

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Real, GoldenTemplates, testing::ValuesIn(GoldenNames()), TestName);

}  // namespace
}  // namespace hostler
