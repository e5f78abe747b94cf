#include "engine/text/named_pretokenizers.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/regex.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// The patterns are those of the models' own tokenizer.json.
constexpr char kDigit[] = R"(\p{N})";
constexpr char kDigits[] = R"(\p{N}+)";
constexpr char kUpToThreeDigits[] = R"(\p{N}{1,3})";
constexpr char kThreeAsciiDigits[] = "[0-9][0-9][0-9]";
constexpr char kLineBreak[] = R"([\r\n])";
constexpr char kEastAsian[] = R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)";
constexpr char kIdeographsAndKana[] = R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)";
constexpr char kDefaultMarks[] = R"([\p{P}$+<=>^~|]+)";
constexpr char kFalconMarks[] = R"([\p{P}$+<=>^~|`]+)";

constexpr char kLlama3[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                           R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                          R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen35[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
                           R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Its classes less Han, which PCRE2 has no operator for.
constexpr char kKimiK2[] =
    R"(\p{sc:Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*)"
    R"((?:(?!\p{sc:Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+)"
    R"((?:(?!\p{sc:Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kDeepseekV3[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kDeepseekLlmLetters[] =
    R"(\s?[)"
    R"(A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293})"
    R"(\x{295}-\x{2af}\x{370}-\x{373}\x{376}-\x{377}\x{37b}-\x{37d}\x{37f}\x{386})"
    R"(\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f})"
    R"(\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba})"
    R"(\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15})"
    R"(\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b})"
    R"(\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4})"
    R"(\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4})"
    R"(\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124})"
    R"(\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f})"
    R"(\x{2145}-\x{2149}\x{214e}\x{2183}-\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4})"
    R"(\x{2ceb}-\x{2cee}\x{2cf2}-\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f})"
    R"(\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17})"
    R"(\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3})"
    R"(\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df})"
    R"(\x{1e900}-\x{1e943})"
    R"(]+)";
constexpr char kDeepseekLlmMarks[] =
    R"(\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+)";
constexpr char kBailing[] =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*)"
    R"(|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr char kSeedCoder[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                              R"(| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kExaoneMoe[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr char kBloom[] = R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+)";

struct Family {
  // Each is applied to the words that the one before it left; to the first null.
  std::array<const char*, 6> patterns;
  bool ignore_merges = false;
  bool add_bos = false;
};

constexpr Family kGpt2Family = {{kGpt2Pattern}};
constexpr Family kStarcoderFamily = {{kDigit, kGpt2Pattern}};
constexpr Family kLlama3Family = {{kLlama3}, /*ignore_merges=*/true, /*add_bos=*/true};
constexpr Family kGlm4Family = {{kLlama3}};
constexpr Family kQwen2Family = {{kQwen2}};
constexpr Family kGpt4oFamily = {{kGpt4o}};
constexpr Family kTekkenFamily = {{kTekken}, /*ignore_merges=*/true, /*add_bos=*/true};
constexpr Family kDeepseekV3Family = {{kUpToThreeDigits, kIdeographsAndKana, kDeepseekV3}};
constexpr Family kDeepseekLlmFamily = {
    {kLineBreak, kDeepseekLlmLetters, kDeepseekLlmMarks, R"(\s+$)", kEastAsian, kDigits}};
constexpr Family kDeepseekCoderFamily = {
    {kLineBreak, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kEastAsian, kDigit}};
constexpr Family kBailingFamily = {{kBailing}};
constexpr Family kBloomFamily = {{kBloom}};
constexpr Family kDefaultFamily = {{kDefaultMarks, kGpt2Pattern, kDigits, kThreeAsciiDigits}};

struct Entry {
  std::string_view name;
  Family family;
};

constexpr Entry kEntries[] = {
    {"a.x-4.0", kGpt2Family},
    {"bailingmoe", kBailingFamily},
    {"bailingmoe2", kBailingFamily},
    {"bloom", kBloomFamily},
    {"chatglm-bpe", kGlm4Family},
    {"codeshell", kStarcoderFamily},
    {"command-r", kStarcoderFamily},
    {"dbrx", kGlm4Family},
    {"deepseek-coder", kDeepseekCoderFamily},
    {"deepseek-llm", kDeepseekLlmFamily},
    {"deepseek-r1-qwen", kQwen2Family},
    {"deepseek-v3", kDeepseekV3Family},
    {"default", kDefaultFamily},
    {"exaone", kStarcoderFamily},
    {"exaone-moe", {{kExaoneMoe}}},
    {"exaone4", kGpt2Family},
    {"falcon", {{kFalconMarks, kGpt2Pattern, kThreeAsciiDigits}}},
    {"falcon-h1", kLlama3Family},
    {"falcon3", kLlama3Family},
    {"gigachat", kGpt2Family},
    {"glm4", kGlm4Family},
    {"gpt-2", kGpt2Family},
    {"gpt-4o", kGpt4oFamily},
    {"gpt3-finnish", kBloomFamily},
    {"granite-docling", kGpt2Family},
    {"grok-2", kQwen2Family},
    {"hunyuan", kQwen2Family},
    {"hunyuan-dense", kDeepseekV3Family},
    {"jais", kGpt2Family},
    {"joyai-llm", kDeepseekV3Family},
    {"kanana2", kGpt4oFamily},
    {"kimi-k2", {{kKimiK2}}},
    {"kormo", kQwen2Family},
    {"laguna", {{R"([^\n]+|[\n]+)", kQwen2}}},
    {"lfm2", kLlama3Family},
    {"llada-moe", kBailingFamily},
    {"llama-bpe", kLlama3Family},
    {"llama-v3", kLlama3Family},
    {"llama3", kLlama3Family},
    {"llama4", kGpt4oFamily},
    {"megrez", kQwen2Family},
    {"mellum", kGpt2Family},
    {"mellum2", kStarcoderFamily},
    {"midm-2.0", kLlama3Family},
    {"minerva-7b", kStarcoderFamily},
    {"minimax-m2", kGpt4oFamily},
    {"mpt", kGpt2Family},
    {"olmo", kGpt2Family},
    {"phi-2", kGpt2Family},
    {"pixtral", kLlama3Family},
    {"poro-chat", kBloomFamily},
    {"qwen2", kQwen2Family},
    {"qwen35", {{kQwen35}}},
    {"refact", kStarcoderFamily},
    {"seed-coder", {{kSeedCoder}}},
    {"smaug-bpe", kGlm4Family},
    {"smollm", kStarcoderFamily},
    {"solar-open", kQwen2Family},
    {"stablelm2", kQwen2Family},
    {"starcoder", kStarcoderFamily},
    {"talkie", kGpt4oFamily},
    {"tekken", kTekkenFamily},
    {"trillion", kGpt2Family},
    {"viking", {{kBloom, kDigit}}},
};

}  // namespace

absl::StatusOr<NamedPreTokenizer> FindPreTokenizer(const std::string& name) {
  const auto entry = std::find_if(std::begin(kEntries), std::end(kEntries),
                                  [&](const Entry& e) { return e.name == name; });
  if (entry == std::end(kEntries)) {
    return absl::UnimplementedError(fmt::format("pre-tokenizer '{}' is not supported", name));
  }
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  for (const char* pattern : entry->family.patterns) {
    if (pattern == nullptr) break;
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Regex> regex, Regex::Compile(pattern));
    steps.push_back(NewSplit(std::move(regex), SplitBehavior::kIsolated, /*invert=*/false));
  }
  steps.push_back(NewByteLevel(/*add_prefix_space=*/false));
  return NamedPreTokenizer{NewPreTokenizerSequence(std::move(steps)), entry->family.ignore_merges,
                           entry->family.add_bos};
}

}  // namespace hostler
