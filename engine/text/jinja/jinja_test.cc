// The interpreter against Jinja2's own results, and its limits.
#include <fstream>

#include "engine/text/chat_template.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::StartsWith;

ordered_json ReadData(const std::string& name) {
  std::ifstream in(HOSTLER_SOURCE_DIR "/engine/text/jinja/testdata/" + name);
  EXPECT_TRUE(in) << name;
  return ordered_json::parse(in);
}

// What the template prints, or "error: " and why not.
std::string Render(const std::string& source,
                   const ordered_json& variables = ordered_json::object()) {
  auto parsed = ParseChatTemplate(source);
  if (!parsed.ok()) return "error: " + std::string(parsed.status().message());
  auto text = (*parsed)->Render(variables);
  if (!text.ok()) {
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    return "error: " + std::string(text.status().message());
  }
  return *text;
}

std::string Repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

void ExpectAsJinja2(const std::string& file, const std::string& before, const std::string& after) {
  ordered_json variables = ReadData("variables.json");
  variables["now"] = "2025-03-14T15:09:26";
  const ordered_json rows = ReadData(file);
  ASSERT_GT(rows.size(), 200u);
  for (const ordered_json& row : rows) {
    const std::string source = before + row[0].get<std::string>() + after;
    SCOPED_TRACE(source);
    const std::string text = Render(source, variables);
    if (row[1].is_null()) {
      EXPECT_THAT(text, StartsWith("error: "));
    } else {
      EXPECT_EQ(text, row[1].get<std::string>());
    }
  }
}

TEST(Jinja, ExpressionsGiveWhatJinja2Gives) { ExpectAsJinja2("expressions.json", "{{ ", " }}"); }

TEST(Jinja, StatementsGiveWhatJinja2Gives) { ExpectAsJinja2("statements.json", "", ""); }

TEST(Jinja, ErrorsNameTheLineAndTheReason) {
  EXPECT_EQ(Render("a\n\n{{ x.y }}"), "error: chat template, line 3: 'x' is undefined");
  EXPECT_EQ(Render("{% if %}"),
            "error: chat template, line 1: Expected an expression, got 'end of statement block'");
  EXPECT_EQ(Render("\n{% for x in [1] %}\n{{ x + 'a' }}{% endfor %}"),
            "error: chat template, line 3: unsupported operand type(s) for +: 'int' and 'str'");
  EXPECT_THAT(Render("{% if x %}"), HasSubstr("Looking for 'endif'"));
}

TEST(Jinja, RaiseExceptionSpeaksTheTemplatesOwnWords) {
  EXPECT_EQ(Render("{{ raise_exception('No ' ~ n ~ ' here') }}", {{"n", 3}}), "error: No 3 here");
}

TEST(Jinja, OfTwoErrorsTheFirstIsReported) {
  EXPECT_EQ(Render("{{ raise_exception('one') }}{{ raise_exception('two') }}"), "error: one");
  EXPECT_EQ(Render("{{ [a.b, raise_exception('two')] }}"),
            "error: chat template, line 1: 'a' is undefined");
}

TEST(Jinja, ReadsTheClockWithoutNow) {
  EXPECT_THAT(Render("{{ strftime_now('%Y') }}"), StartsWith("20"));
  EXPECT_EQ(
      Render("{{ strftime_now('%d %b %Y %H:%M:%S.%f%Z|') }}", {{"now", "2024-02-29T01:02:03.5"}}),
      "29 Feb 2024 01:02:03.500000|");
  EXPECT_EQ(Render("{{ strftime_now('') }}"), "");
}

TEST(Jinja, VariablesMustBeAnObject) {
  EXPECT_THAT(Render("x", ordered_json::array()), HasSubstr("must be an object"));
}

TEST(Jinja, KeepsTheOrderOfKeys) {
  const ordered_json variables = ordered_json::parse(R"({"d": {"z": 1, "a": {"y": 2, "b": 3}}})");
  EXPECT_EQ(Render("{{ d | tojson }}", variables), R"({"z": 1, "a": {"y": 2, "b": 3}})");
}

TEST(Jinja, IllFormedUtf8IsReplaced) {
  ordered_json variables;
  variables["x"] = "a\xFF";
  EXPECT_EQ(Render("\xC0{{ x }}{{ '\xE2\x82' }}", variables),
            "\xEF\xBF\xBD"
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

// -- Limits -------------------------------------------------------------------

TEST(Jinja, RoundsToAnyNumberOfDigits) {
  const ordered_json numbers = {{"most", INT64_MAX}, {"least", INT64_MIN}};
  EXPECT_EQ(Render("{{ 1234|round(-2) }} {{ 1250|round(-2) }} {{ -1350|round(-2) }}"),
            "1200 1200 -1400");
  EXPECT_EQ(Render("{{ 1234|round(-most) }} {{ 1.5|round(-most) }}", numbers), "0 0.0");
  EXPECT_EQ(Render("{{ 1234|round(least) }} {{ least|round(-19) }}", numbers), "0 0");
  EXPECT_EQ(Render("{{ most|round(-1) }}", numbers),
            "error: chat template, line 1: integer is too large");
}

TEST(Jinja, FormatsNoNumberThatIsNone) {
  EXPECT_EQ(Render("{{ '%d' % (1e308 * 10 - 1e308 * 10) }}"),
            "error: chat template, line 1: cannot convert float NaN to integer");
  EXPECT_EQ(Render("{{ '%d' % n }}", {{"n", INT64_MAX}}), "9223372036854775807");
}

TEST(JinjaLimits, EndlessWorkStops) {
  EXPECT_THAT(Render("{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}"
                     "{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(Render("{% set ns = namespace(x='a') %}{% for i in range(99999) %}"
                     "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"),
              StartsWith("error: "));
  EXPECT_THAT(Render("{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}"
                     "{% set ns.x = ns.x + ns.x %}{% endfor %}"),
              HasSubstr("steps"));
}

TEST(JinjaLimits, ListsThatHoldThemselvesManyTimes) {
  EXPECT_THAT(Render("{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(150) %}"
                     "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
                     "{{ ns.a == ns.b }}{{ ns.a }}"),
              HasSubstr("too much in it"));
  EXPECT_EQ(Render("{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(15) %}"
                   "{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}{% endfor %}"
                   "{{ ns.a == ns.b }}{{ {ns.a: 1}[ns.b] }}"),
            "True1");
}

TEST(JinjaLimits, OutputIsBounded) {
  EXPECT_THAT(
      Render("{% for a in range(99999) %}{{ x }}{% endfor %}", {{"x", std::string(10000, 'x')}}),
      StartsWith("error: "));
}

TEST(JinjaLimits, HugeStringsAreNotMade) {
  for (const char* expression :
       {"'ab' * 999999999999", "'x'.center(999999999)", "'%999999999d' % 1",
        "'x' | indent(999999999)", "'{:999999999}'.format(1)", "'x'.zfill(99999999999)",
        "[1] * 999999999999", "('a' * 99999).replace('a', 'b' * 99999)",
        "('a' * 99999).replace('', 'b' * 99999)", "('b' * 99999).join('a' * 99999)",
        "[1] | tojson(indent=999999999)", "'\t'.expandtabs(99999999999)", "range(999999999)",
        "'%.*f' % (999999999, 1.5)", "'%*d' % (999999999, 1)",
        "[1] | batch(999999999999, 'x') | list", "9 ** 9 ** 9", "'x' | center(99999999999)",
        "[1] | slice(999999999999) | list"}) {
    const std::string text = Render(std::string("{{ ") + expression + " }}");
    EXPECT_TRUE(text.starts_with("error: ") || text.size() < 1000) << expression;
  }
}

TEST(JinjaLimits, RecursionIsBounded) {
  EXPECT_THAT(Render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), HasSubstr("recursion"));
  EXPECT_THAT(Render("{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}"),
              StartsWith("error: "));
  EXPECT_THAT(Render("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
              HasSubstr("recursion"));
}

TEST(JinjaLimits, DeepSyntaxIsRefused) {
  for (const auto& [open, close] :
       std::vector<std::pair<std::string, std::string>>{{"(", ")"},
                                                        {"[", "]"},
                                                        {"{1:", "}"},
                                                        {"not ", ""},
                                                        {"-", ""},
                                                        {"a(", ")"},
                                                        {"a[", "]"},
                                                        {"a|b(", ")"},
                                                        {"1 if 1 else ", ""}}) {
    const std::string source = "{{ " + Repeat(open, 100000) + "1" + Repeat(close, 100000) + " }}";
    EXPECT_THAT(Render(source), StartsWith("error: ")) << open;
  }
  EXPECT_THAT(Render(Repeat("{% if x %}", 100000)), HasSubstr("nested too deep"));
  EXPECT_THAT(Render("{% set " + Repeat("(", 100000) + " = 1 %}"), StartsWith("error: "));
  for (const char* link : {" + 1", " ~ 1", " and 1", " or 1", ".a", "[0]", "|a", "()", " ** 1",
                           " if 1", " is b()", " < 1", " not in 1"}) {
    Render("{{ 1" + Repeat(link, 100000) + " }}");  // must come back
  }
}

TEST(JinjaLimits, DeepValuesAreRefused) {
  EXPECT_THAT(Render("{% set ns = namespace(a=[]) %}{% for i in range(99999) %}"
                     "{% set ns.a = [ns.a] %}{% endfor %}"),
              HasSubstr("nested deeper"));
  EXPECT_THAT(Render("{% set ns = namespace(a={}) %}{% for i in range(99999) %}"
                     "{% set ns.a = {'a': (ns.a,)} %}{% endfor %}"),
              HasSubstr("nested deeper"));
  ordered_json deep = 1;
  for (int i = 0; i < 5000; ++i) {
    ordered_json outer = ordered_json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  ordered_json variables;  // a copy takes more stack than there is, if it is not optimised
  variables["x"] = std::move(deep);
  EXPECT_THAT(Render("{{ x }}", variables), HasSubstr("nests deeper"));
}

TEST(JinjaLimits, NamespacesThatHoldThemselves) {
  EXPECT_THAT(Render("{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }}"),
              StartsWith("error: "));
  EXPECT_EQ(
      Render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a == a }}"),
      "True");
  EXPECT_EQ(Render("{% set ns = namespace() %}{% for x in [1] %}{% set ns.l = loop %}"
                   "{{ loop.changed(loop) }}{% endfor %}{{ ns.l.index }}"),
            "True2");
}

TEST(JinjaLimits, MacrosOutliveTheirScopes) {
  EXPECT_EQ(Render("{% set ns = namespace() %}{% for x in [1] %}{% macro m() %}{{ x }}|{{ y }}"
                   "{% endmacro %}{% set ns.m = m %}{% endfor %}{% set y = 2 %}{{ ns.m() }}"),
            "|2");
}

TEST(JinjaLimits, LongSourcesAreRefused) {
  EXPECT_THAT(Render(std::string(5 << 20, 'x')), HasSubstr("too many"));
}

}  // namespace
}  // namespace hostler
