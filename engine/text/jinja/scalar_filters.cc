// Filters on text and numbers, and those that turn other values into them.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_format.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

template <std::string (*kFunction)(std::string_view)>
Value Mapped(Context& context, const Value& input, const Arguments&) {
  return context.NewString(kFunction(Str(input)));
}

Value ToText(Context& context, const Value& input, const Arguments&) {
  return input.is_string() ? input : context.NewString(Str(input));
}

Value Trim(Context& context, const Value& input, const Arguments& arguments) {
  const std::optional<std::string> characters = OptionalText(context, arguments, 0, "chars");
  return context.NewString(std::string(Strip(Str(input), characters)));
}

// Words begin after white space, hyphens and opening brackets.
std::string TitleWords(std::string_view text) {
  std::string out;
  size_t begin = 0;
  const auto flush = [&](size_t end) {
    if (end == begin) return;
    size_t next = begin;
    NextCodePoint(text, &next);
    out += Upper(text.substr(begin, next - begin));
    out += Lower(text.substr(next, end - next));
    begin = end;
  };
  for (size_t pos = 0; pos < text.size();) {
    const size_t at = pos;
    const char32_t c = NextCodePoint(text, &pos);
    if (c != '-' && c != '(' && c != '{' && c != '[' && c != '<' && !IsSpace(c)) continue;
    flush(at);
    out.append(text.substr(at, pos - at));
    begin = pos;
  }
  flush(text.size());
  return out;
}

Value Replace(Context& context, const Value& input, const Arguments& arguments) {
  const Value* from = arguments.Get(0, "old");
  const Value* to = arguments.Get(1, "new");
  if (from == nullptr || to == nullptr) return context.Fail("replace needs 'old' and 'new'");
  const int64_t limit = NumberArgument(context, arguments, 2, "count", -1);
  auto out = ReplaceText(Str(input), Str(*from), Str(*to), limit, context.limits().string_bytes);
  if (!out.has_value()) return context.Fail("replace makes too long a string");
  return context.NewString(*std::move(out));
}

Value Default(Context&, const Value& input, const Arguments& arguments) {
  const bool replace =
      input.is_undefined() || (BoolArgument(arguments, 1, "boolean", false) && !Truth(input));
  if (!replace) return input;
  const Value* otherwise = arguments.Get(0, "default_value");
  return otherwise == nullptr ? Value::String("") : *otherwise;
}

// "1_000": Python allows single underscores between digits.
std::string WithoutUnderscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] >= '0' &&
                         text[i - 1] <= 'z' && text[i - 1] != '_' && text[i + 1] != '_';
    if (!between) out.push_back(text[i]);
  }
  return out;
}

// Python's int(text, base); nullopt where it raises.
std::optional<int64_t> ParseInteger(std::string_view text, int base) {
  text = Strip(text, std::nullopt);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      base = marked;
      text.remove_prefix(2);
    }
  }
  const std::string digits = WithoutUnderscores(text);
  int64_t value = 0;
  const char* last = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), last, value, base == 0 ? 10 : base);
  if (digits.starts_with('-') || result.ec != std::errc() || result.ptr != last)
    return std::nullopt;
  return negative ? -value : value;
}

// Python's float(text).
std::optional<double> ParseReal(std::string_view text) {
  text = Strip(text, std::nullopt);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('-')) return std::nullopt;
  const std::string digits = WithoutUnderscores(text);
  const char* last = digits.data() + digits.size();
  double value = 0;
  const auto result = std::from_chars(digits.data(), last, value);
  if (digits.empty() || result.ptr != last) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) value = HUGE_VAL;
  return negative ? -value : value;
}

std::optional<double> ToReal(const Value& value) {
  if (value.is_number()) return value.AsDouble();
  if (value.is_string()) return ParseReal(value.string());
  return std::nullopt;
}

Value ToInteger(Context& context, const Value& input, const Arguments& arguments) {
  const Value* otherwise = arguments.Get(0, "default");
  const int64_t base = NumberArgument(context, arguments, 1, "base", 10);
  if (input.is_undefined()) return context.Fail("{}", input.undefined_message());
  if (input.is_integer()) return Value::Int(input.integer());
  if (base != 0 && (base < 2 || base > 36)) return context.Fail("int() base must be 0 or 2..36");
  if (input.is_string()) {
    const auto value = ParseInteger(input.string(), static_cast<int>(base));
    if (value.has_value()) return Value::Int(*value);
  }
  const std::optional<double> real = ToReal(input);
  if (real.has_value() && std::isfinite(*real)) {
    if (std::fabs(*real) >= 9.2e18) return context.Fail("integer is too large");
    return Value::Int(static_cast<int64_t>(*real));
  }
  return otherwise == nullptr ? Value::Int(0) : *otherwise;
}

Value ToFloat(Context& context, const Value& input, const Arguments& arguments) {
  if (input.is_undefined()) return context.Fail("{}", input.undefined_message());
  if (const std::optional<double> real = ToReal(input); real.has_value()) {
    return Value::Float(*real);
  }
  const Value* otherwise = arguments.Get(0, "default");
  return otherwise == nullptr ? Value::Float(0.0) : *otherwise;
}

Value Absolute(Context& context, const Value& input, const Arguments&) {
  if (input.is_integer()) {
    return input.integer() < 0 ? Negate(context, input) : Value::Int(input.integer());
  }
  if (input.is(Kind::kFloat)) return Value::Float(std::fabs(input.real()));
  if (input.is_undefined()) return context.Fail("{}", input.undefined_message());
  return context.Fail("bad operand type for abs(): '{}'", TypeName(input));
}

// Half to even on the decimal digits, as Python rounds.
double RoundReal(double value, int64_t precision) {
  if (precision == 0) return std::nearbyint(value);
  if (precision > 0) {
    if (precision > 300 || !std::isfinite(value)) return value;
    const std::string digits = fmt::format("{:.{}f}", value, precision);
    double rounded = value;
    std::from_chars(digits.data(), digits.data() + digits.size(), rounded);
    return rounded;
  }
  if (precision < -std::numeric_limits<double>::max_exponent10) return value * 0;
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(value / scale) * scale;
}

// To a multiple of 10^digits, halves to the even one.
Value RoundInteger(Context& context, int64_t value, int64_t digits) {
  if (digits > std::numeric_limits<int64_t>::digits10) return Value::Int(0);
  int64_t scale = 1;
  for (int64_t i = 0; i < digits; ++i) scale *= 10;
  int64_t whole = value / scale;
  const int64_t rest = std::abs(value % scale), half = scale / 2;
  if (rest > half || (rest == half && scale > 1 && whole % 2 != 0)) whole += value < 0 ? -1 : 1;
  int64_t rounded = 0;
  if (__builtin_mul_overflow(whole, scale, &rounded)) return context.Fail("integer is too large");
  return Value::Int(rounded);
}

Value Round(Context& context, const Value& input, const Arguments& arguments) {
  const int64_t precision = NumberArgument(context, arguments, 0, "precision", 0);
  const std::string method = TextArgument(context, arguments, 1, "method", "common");
  if (context.failed()) return {};
  if (input.is_undefined()) return context.Fail("{}", input.undefined_message());
  if (!input.is_number()) {
    return context.Fail("type {} doesn't define __round__ method", TypeName(input));
  }
  if (method == "common") {
    if (!input.is_integer()) return Value::Float(RoundReal(input.AsDouble(), precision));
    if (precision >= 0) return Value::Int(input.integer());
    // The smallest integer has no opposite.
    return RoundInteger(context, input.integer(), -std::max<int64_t>(precision, -100));
  }
  if (method != "ceil" && method != "floor") {
    return context.Fail("method must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.AsDouble() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value Indent(Context& context, const Value& input, const Arguments& arguments) {
  const Value* width = arguments.Get(0, "width");
  std::string indention = "    ";
  if (width != nullptr && width->is_string()) {
    indention = width->string();
  } else if (width != nullptr) {
    const int64_t spaces = NumberArgument(context, arguments, 0, "width", 4);
    if (!context.CheckSize(static_cast<double>(spaces))) return {};
    indention = std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
  }
  if (!input.is_string()) return Arithmetic(context, "+", input, Value::String("\n"));
  const bool first = BoolArgument(arguments, 1, "first", false);
  const bool blank = BoolArgument(arguments, 2, "blank", false);
  const std::vector<std::string> lines = SplitLines(input.string() + "\n", false);
  if (!context.CheckSize(static_cast<double>(indention.size()) * lines.size() +
                         input.string().size())) {
    return {};
  }
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return context.NewString(std::move(out));
}

Value Center(Context& context, const Value& input, const Arguments& arguments) {
  const int64_t width = NumberArgument(context, arguments, 0, "width", 80);
  if (!context.CheckSize(static_cast<double>(width))) return {};
  return context.NewString(Pad(Str(input), width, " ", 'c'));
}

Value Truncate(Context& context, const Value& input, const Arguments& arguments) {
  const int64_t length = NumberArgument(context, arguments, 0, "length", 255);
  const bool kill_words = BoolArgument(arguments, 1, "killwords", false);
  const std::string end = TextArgument(context, arguments, 2, "end", "...");
  const int64_t leeway = NumberArgument(context, arguments, 3, "leeway", 5);
  const std::optional<int64_t> size = LengthOf(input);
  if (!size.has_value()) return context.Fail("object of type '{}' has no len()", TypeName(input));
  const std::string text = Str(input);
  const std::vector<size_t> offsets = CharacterOffsets(text);
  const int64_t keep = length - Length(end);
  if (keep < 0) return context.Fail("expected length >= {}, got {}", Length(end), length);
  if (*size <= length + leeway) return input;
  if (!input.is_string()) return context.Fail("cannot truncate a {}", TypeName(input));
  std::string kept = text.substr(0, offsets[keep]);
  if (!kill_words) kept = kept.substr(0, kept.rfind(' '));
  return context.NewString(kept + end);
}

Value WordCount(Context&, const Value& input, const Arguments&) {
  int64_t words = 0;
  bool in_word = false;
  const std::string text = Str(input);
  for (size_t pos = 0; pos < text.size();) {
    const size_t at = pos;
    NextCodePoint(text, &pos);
    const std::string_view c = std::string_view(text).substr(at, pos - at);
    const bool word = c == "_" || HasClass(c, "isalnum");
    if (word && !in_word) ++words;
    in_word = word;
  }
  return Value::Int(words);
}

Value Escape(Context& context, const Value& input, const Arguments&) {
  std::string out;
  for (char c : Str(input)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.push_back(c);
    }
  }
  return context.NewString(std::move(out));
}

std::string Quoted(std::string_view text, bool in_query) {
  std::string out;
  for (unsigned char c : text) {
    const bool alphanumeric =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const std::string_view marks = in_query ? "_.-~" : "_.-~/";
    if (alphanumeric || marks.find(static_cast<char>(c)) != std::string_view::npos) {
      out.push_back(static_cast<char>(c));
    } else if (in_query && c == ' ') {
      out.push_back('+');
    } else {
      out += fmt::format("%{:02X}", c);
    }
  }
  return out;
}

Value UrlEncode(Context& context, const Value& input, const Arguments&) {
  if (input.is_string() || !IsIterable(input)) return context.NewString(Quoted(Str(input), false));
  ValueList pairs;
  if (input.is(Kind::kDict)) {
    for (const auto& [key, value] : input.dict().entries) {
      pairs.push_back(Value::List({key, value}, Kind::kTuple));
    }
  } else {
    pairs = Iterate(context, input);
  }
  std::string out;
  for (const Value& pair : pairs) {
    const ValueList both = Iterate(context, pair);
    if (both.size() != 2) return context.Fail("urlencode needs pairs");
    if (!out.empty()) out += "&";
    out += Quoted(Str(both[0]), true) + "=" + Quoted(Str(both[1]), true);
  }
  return context.NewString(std::move(out));
}

Value Format(Context& context, const Value& input, const Arguments& arguments) {
  if (arguments.named.empty()) {
    return PercentFormat(context, Str(input), Value::List(arguments.positional, Kind::kTuple));
  }
  if (!arguments.positional.empty()) {
    return context.Fail("can't handle positional and keyword arguments at the same time");
  }
  Dict dict;
  for (const auto& [name, value] : arguments.named) dict.Set(Value::String(name), value);
  return PercentFormat(context, Str(input), Value::Of(std::move(dict)));
}

// json.dumps as Hugging Face's own filter calls it.
Value ToJsonText(Context& context, const Value& input, const Arguments& arguments) {
  JsonStyle style;
  style.ensure_ascii = BoolArgument(arguments, 0, "ensure_ascii", false);
  style.sort_keys = BoolArgument(arguments, 3, "sort_keys", false);
  if (const Value* indent = arguments.Get(1, "indent"); indent != nullptr && !indent->is_none()) {
    if (indent->is_string()) {
      style.indent = indent->string();
    } else {
      const int64_t spaces = NumberArgument(context, arguments, 1, "indent", 0);
      if (!context.CheckSize(static_cast<double>(spaces))) return {};
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (const Value* pair = arguments.Get(2, "separators"); pair != nullptr && !pair->is_none()) {
    const bool is_pair = pair->is_sequence() && pair->items().size() == 2 &&
                         pair->items()[0].is_string() && pair->items()[1].is_string();
    if (!is_pair) return context.Fail("separators must be two strings");
    style.item_separator = pair->items()[0].string();
    style.key_separator = pair->items()[1].string();
  }
  if (context.failed()) return {};
  return context.NewString(ToJson(context, input, style));
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"abs", Absolute},
    {"capitalize", Mapped<Capitalize>},
    {"center", Center},
    {"d", Default},
    {"default", Default},
    {"e", Escape},
    {"escape", Escape},
    {"float", ToFloat},
    {"forceescape", Escape},
    {"format", Format},
    {"indent", Indent},
    {"int", ToInteger},
    {"lower", Mapped<Lower>},
    {"pprint", [](Context& context, const Value& input,
                  const Arguments&) { return context.NewString(Repr(input)); }},
    {"replace", Replace},
    {"round", Round},
    {"safe", ToText},
    {"string", ToText},
    {"title", Mapped<TitleWords>},
    {"tojson", ToJsonText},
    {"trim", Trim},
    {"truncate", Truncate},
    {"upper", Mapped<Upper>},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
};

}  // namespace

Filter FindScalarFilter(std::string_view name) {
  for (const auto& [known, filter] : kFilters) {
    if (known == name) return filter;
  }
  return nullptr;
}

}  // namespace hostler::jinja
