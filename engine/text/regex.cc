#include "engine/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// PCRE2 and Oniguruma differ in these two classes: PCRE2's \s has U+180E and
// its \w lacks marks and connector punctuation.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Outside of [] Oniguruma counts Latin-1's superscripts and fractions, too.
constexpr std::string_view kLatinNumbers = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

absl::StatusOr<std::string> ToPcre(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char kind = pattern[++i];
      const std::string_view set = kind == 's' || kind == 'S'   ? kSpace
                                   : kind == 'w' || kind == 'W' ? kWord
                                                                : std::string_view();
      const bool negated = kind == 'S' || kind == 'W';
      if (set.empty() || (in_class && negated)) {
        out.append(pattern, i - 1, 2);
      } else if (in_class) {
        out.append(set);
      } else {
        out.append(fmt::format("[{}{}{}]", negated ? "^" : "", set,
                               set == kWord ? kLatinNumbers : std::string_view()));
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      // A bracket that closes at once stands for itself.
      out.push_back(c);
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out.push_back(pattern[++i]);
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') {
        out.append("\\]");
        ++i;
      }
      continue;
    }
    const std::string_view rest = pattern.substr(i);
    if (in_class && (rest.starts_with("&&") || (c == '[' && !rest.starts_with("[:")))) {
      return absl::UnimplementedError(
          fmt::format("regular expression '{}': set operations inside a class", pattern));
    }
    if (in_class && c == '[') {  // [:name:]
      const size_t end = pattern.find(":]", i + 2);
      if (end == std::string_view::npos) {
        return absl::InvalidArgumentError(
            fmt::format("regular expression '{}': '[:' without ':]'", pattern));
      }
      out.append(pattern, i, end + 2 - i);
      i = end + 1;
      continue;
    }
    if (c == ']') in_class = false;
    out.push_back(c);
  }
  return out;
}

// Time on this thread's processor, so that other work on the machine does not
// count.
int64_t CpuNanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The first thing in the first alternative, so that every attempt meets it.
constexpr std::string_view kCallout = "(?C1)";

// PCRE2 limits the steps of an attempt to match at one place, not how many
// places are tried, each of which may look at all the rest of the text. So
// every attempt begins with a callout, which looks at the clock at times. The
// allowance is some hundred times what patterns of use take.
struct Allowance {
  int64_t nanoseconds = 0;
  int64_t begin = 0;  // 0: not many attempts yet
  uint32_t attempts = 0;

  static int Attempt(pcre2_callout_block*, void* self) {
    auto* allowance = static_cast<Allowance*>(self);
    if (++allowance->attempts % 64 != 0) return 0;
    const int64_t now = CpuNanoseconds();
    if (allowance->begin == 0) allowance->begin = now;
    return now - allowance->begin > allowance->nanoseconds ? PCRE2_ERROR_CALLOUT : 0;
  }
};

struct MatchState {
  MatchState(const pcre2_code* code, size_t text_bytes)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    allowance.nanoseconds = 100'000'000 + 1'000 * static_cast<int64_t>(text_bytes);
    pcre2_set_callout(context, Allowance::Attempt, &allowance);
  }
  ~MatchState() {
    if (jit_stack != nullptr) pcre2_jit_stack_free(jit_stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchState(const MatchState&) = delete;

  // Room for groups that repeat over all of a long word; only what is touched
  // costs memory.
  void GrowJitStack() {
    if (jit_stack != nullptr) return;
    jit_stack = pcre2_jit_stack_create(32 << 10, 256 << 20, nullptr);
    if (jit_stack != nullptr) pcre2_jit_stack_assign(context, nullptr, jit_stack);
  }

  pcre2_match_data* data;
  pcre2_match_context* context;
  Allowance allowance;
  pcre2_jit_stack* jit_stack = nullptr;
};

}  // namespace

struct Regex::Compiled {
  ~Compiled() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
};

Regex::~Regex() = default;

absl::StatusOr<std::unique_ptr<Regex>> Regex::Compile(const std::string& pattern) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string own, ToPcre(pattern));
  const std::string translated = std::string(kCallout) + own;
  int error = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<Regex> regex(new Regex);
  regex->compiled_ = std::make_unique<Compiled>();
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR reason[256] = {};
    pcre2_get_error_message(error, reason, sizeof(reason));
    return absl::InvalidArgumentError(fmt::format("regular expression '{}': at {}: {}", pattern,
                                                  offset - std::min(offset, kCallout.size()),
                                                  reinterpret_cast<char*>(reason)));
  }
  regex->compiled_->code = code;
  // Where there is no JIT the interpreter does the same, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return regex;
}

void Regex::FindAll(std::string_view text, std::vector<TextRange>* matches) const {
  const pcre2_code* code = compiled_->code;
  MatchState state(code, text.size());
  // Backtracking over a run of n characters is n steps, and must not fail.
  const uint64_t limit = 10'000'000 + uint64_t{64} * text.size();
  pcre2_set_match_limit(state.context,
                        static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
  size_t pos = 0;
  while (pos < text.size()) {
    int rc = pcre2_match(code, subject, text.size(), pos, kOptions, state.data, state.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && state.jit_stack == nullptr) {
      state.GrowJitStack();
      continue;
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code, subject, text.size(), pos, kOptions | PCRE2_NO_JIT, state.data,
                       state.context);
    }
    if (rc < 0) return;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state.data);
    if (range[1] <= range[0] || range[0] < pos) return;  // \K can do that
    matches->push_back({range[0], range[1]});
    pos = range[1];
  }
}

std::string Regex::ReplaceAll(std::string text, std::string_view content, size_t most_bytes) const {
  std::vector<TextRange> matches;
  if (IsUtf8(text)) FindAll(text, &matches);
  if (matches.empty()) return text;
  std::string out;
  size_t done = 0;
  for (const TextRange& match : matches) {
    if (out.size() > most_bytes) break;
    out.append(text, done, match.begin - done);
    out.append(content);
    done = match.end;
  }
  out.append(text, done);
  return out;
}

std::string EscapeForRegex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}-#/ ").find(c) != std::string_view::npos) {
      out.push_back('\\');
    }
    out.push_back(c);
  }
  return out;
}

}  // namespace hostler
