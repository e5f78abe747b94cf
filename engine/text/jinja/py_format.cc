#include "engine/text/jinja/py_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>

#include "engine/base/utf8.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

constexpr int64_t kMaxPrecision = 400;

// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  std::optional<int64_t> precision;
  char type = '\0';
};

// Digits at *pos; 0 when there are none. Clamped, so as not to overflow.
int64_t TakeNumber(std::string_view text, size_t* pos) {
  int64_t number = 0;
  for (; *pos < text.size() && text[*pos] >= '0' && text[*pos] <= '9'; ++*pos) {
    number = std::min<int64_t>(number * 10 + (text[*pos] - '0'), INT32_MAX);
  }
  return number;
}

std::string GroupThousands(const std::string& digits, char separator) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

// The magnitude of a float. 'g' without a precision is Python's repr.
std::string FloatDigits(double value, const Spec& spec) {
  const double magnitude = std::fabs(value);
  const char lower = static_cast<char>(spec.type | 0x20);
  if (spec.type == '\0' && !spec.precision.has_value()) return FloatRepr(magnitude);
  const int precision =
      static_cast<int>(std::clamp<int64_t>(spec.precision.value_or(6), 0, kMaxPrecision));
  std::string out;
  if (lower == 'f' || spec.type == '%') {
    out = fmt::format("{:.{}f}", spec.type == '%' ? magnitude * 100 : magnitude, precision);
  } else if (lower == 'e') {
    out = fmt::format("{:.{}e}", magnitude, precision);
  } else {
    out = fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
  }
  if (spec.type >= 'A' && spec.type <= 'Z') {
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  }
  if (spec.type == '%') out += '%';
  return out;
}

std::string IntegerDigits(uint64_t magnitude, const Spec& spec) {
  switch (spec.type) {
    case 'x':
      return (spec.alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X':
      return (spec.alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o':
      return (spec.alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b':
      return (spec.alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

std::string PadNumber(bool negative, std::string digits, const Spec& spec) {
  std::string sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  if (spec.grouping != '\0') {
    const size_t point = std::min(digits.find_first_not_of("0123456789"), digits.size());
    digits = GroupThousands(digits.substr(0, point), spec.grouping) + digits.substr(point);
  }
  if (spec.align == '=') {
    return sign + Pad(digits, spec.width - static_cast<int64_t>(sign.size()), spec.fill, '>');
  }
  return Pad(sign + digits, spec.width, spec.fill, spec.align == '\0' ? '>' : spec.align);
}

std::string FormatNumber(Context& context, const Value& value, const Spec& spec) {
  static constexpr std::string_view kFloatTypes = "fFeEgG%";
  const bool float_type = kFloatTypes.find(spec.type) != std::string_view::npos;
  if (value.is(Kind::kFloat) || float_type) {
    if (!float_type && spec.type != '\0' && spec.type != 'n') {
      context.Fail("Unknown format code '{}' for object of type 'float'", spec.type);
    }
    const double real = value.AsDouble();
    return PadNumber(std::signbit(real), FloatDigits(real, spec), spec);
  }
  const int64_t integer = value.integer();
  if (spec.type == 'c') {
    std::string character;
    AppendUtf8(integer >= 0 && integer <= 0x10FFFF ? static_cast<char32_t>(integer) : 0xFFFD,
               &character);
    return Pad(character, spec.width, spec.fill, spec.align == '\0' ? '<' : spec.align);
  }
  const uint64_t magnitude =
      integer < 0 ? ~static_cast<uint64_t>(integer) + 1 : static_cast<uint64_t>(integer);
  return PadNumber(integer < 0, IntegerDigits(magnitude, spec), spec);
}

std::string FormatText(std::string_view text, const Spec& spec) {
  std::string cut(text);
  if (spec.precision.has_value()) {
    const std::vector<size_t> offsets = CharacterOffsets(text);
    const auto last = static_cast<int64_t>(offsets.size()) - 1;
    cut = text.substr(0, offsets[std::min(*spec.precision, last)]);
  }
  return Pad(cut, spec.width, spec.fill, spec.align == '\0' ? '<' : spec.align);
}

// -- % ------------------------------------------------------------------------

class PercentFormatter {
 public:
  PercentFormatter(Context& context, std::string_view format, const Value& values)
      : context_(context), format_(format), values_(values) {}

  Value Run() {
    while (pos_ < format_.size() && !context_.failed()) {
      const size_t percent = std::min(format_.find('%', pos_), format_.size());
      out_.append(format_.substr(pos_, percent - pos_));
      pos_ = percent;
      if (pos_ < format_.size()) Conversion();
      if (!context_.CheckSize(static_cast<double>(out_.size()))) break;
    }
    // A value that is not a tuple but has items may go unused.
    const bool has_items = values_.is(Kind::kDict) || values_.is(Kind::kList) ||
                           values_.is(Kind::kRange) || values_.is_undefined();
    const bool all_used =
        values_.is(Kind::kTuple) ? next_ >= values_.items().size() : next_ > 0 || has_items;
    if (!context_.failed() && !all_used) {
      return context_.Fail("not all arguments converted during string formatting");
    }
    return context_.NewString(std::move(out_));
  }

 private:
  Value NextValue() {
    if (values_.is(Kind::kTuple)) {
      if (next_ < values_.items().size()) return values_.items()[next_++];
    } else if (next_++ == 0) {
      return values_;
    }
    return context_.Fail("not enough arguments for format string");
  }

  Value NamedValue() {
    const size_t end = format_.find(')', pos_);
    if (end == std::string_view::npos) return context_.Fail("incomplete format key");
    const std::string key(format_.substr(pos_ + 1, end - pos_ - 1));
    pos_ = end + 1;
    if (!values_.is(Kind::kDict)) return context_.Fail("format requires a mapping");
    const Value* value = values_.dict().Find(key);
    return value == nullptr ? context_.Fail("{}", Quote(key)) : *value;
  }

  int64_t WidthOrStar() {
    if (pos_ >= format_.size() || format_[pos_] != '*') return TakeNumber(format_, &pos_);
    ++pos_;
    const Value value = NextValue();
    if (!value.is_integer()) context_.Fail("* wants int");
    return value.is_integer() ? std::clamp<int64_t>(value.integer(), 0, INT32_MAX) : 0;
  }

  void Conversion() {
    ++pos_;
    std::optional<Value> value;
    if (pos_ < format_.size() && format_[pos_] == '(') value = NamedValue();
    Spec spec;
    bool zero = false;
    for (; pos_ < format_.size(); ++pos_) {
      const char flag = format_[pos_];
      if (flag == '-') {
        spec.align = '<';
      } else if (flag == '+' || flag == ' ') {
        if (spec.sign != '+') spec.sign = flag;
      } else if (flag == '#') {
        spec.alternate = true;
      } else if (flag == '0') {
        zero = true;
      } else {
        break;
      }
    }
    spec.width = WidthOrStar();
    if (pos_ < format_.size() && format_[pos_] == '.') {
      ++pos_;
      spec.precision = WidthOrStar();
    }
    while (pos_ < format_.size() &&
           std::string_view("hlL").find(format_[pos_]) != std::string_view::npos) {
      ++pos_;
    }
    if (pos_ >= format_.size()) {
      context_.Fail("incomplete format");
      return;
    }
    spec.type = format_[pos_++];
    if (!context_.CheckSize(static_cast<double>(spec.width))) return;
    if (spec.type == '%') {
      out_.push_back('%');
      return;
    }
    if (!value.has_value()) value = NextValue();
    if (context_.failed()) return;
    if (spec.align == '\0') spec.align = '>';
    if (zero && spec.align != '<') {
      spec.fill = "0";
      spec.align = '=';
    }
    Convert(*value, spec);
  }

  void Convert(const Value& value, Spec spec) {
    static constexpr std::string_view kNumbers = "diuxXofFeEgG";
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      if (spec.align == '=') spec.align = '>', spec.fill = " ";
      out_ += FormatText(spec.type == 's' ? Str(value) : Repr(value), spec);
    } else if (spec.type == 'c' && value.is_string()) {
      out_ += FormatText(value.string(), spec);
    } else if (kNumbers.find(spec.type) == std::string_view::npos && spec.type != 'c') {
      context_.Fail("unsupported format character '{}'", spec.type);
    } else if (!value.is_number()) {
      context_.Fail("%{} format: a real number is required, not {}", spec.type, TypeName(value));
    } else if (std::string_view("diu").find(spec.type) != std::string_view::npos) {
      spec.type = 'd';
      spec.precision.reset();
      const double real = value.AsDouble();
      if (value.is(Kind::kFloat) && std::isnan(real)) {
        context_.Fail("cannot convert float NaN to integer");
      } else if (value.is(Kind::kFloat) && std::fabs(real) > 9e18) {
        context_.Fail("integer is too large");
      }
      out_ += FormatNumber(context_,
                           value.is(Kind::kFloat)
                               ? Value::Int(static_cast<int64_t>(context_.failed() ? 0 : real))
                               : value,
                           spec);
    } else {
      out_ += FormatNumber(context_, value, spec);
    }
  }

  Context& context_;
  const std::string_view format_;
  const Value& values_;
  size_t pos_ = 0;
  size_t next_ = 0;
  std::string out_;
};

// -- format() -----------------------------------------------------------------

Spec ParseSpec(Context& context, std::string_view text, bool is_number) {
  Spec spec;
  size_t pos = 0;
  const auto is_align = [&](size_t at) {
    return at < text.size() && std::string_view("<>^=").find(text[at]) != std::string_view::npos;
  };
  const size_t first = Utf8Length(text, 0);
  if (first > 0 && is_align(first)) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    pos = first + 1;
  } else if (is_align(0)) {
    spec.align = text[pos++];
  }
  const auto at = [&](std::string_view set) {
    return pos < text.size() && set.find(text[pos]) != std::string_view::npos;
  };
  if (at("+- ")) spec.sign = text[pos++];
  if (at("#")) spec.alternate = true, ++pos;
  if (at("0")) {
    ++pos;
    if (spec.align == '\0' && is_number) spec.align = '=', spec.fill = "0";
  }
  spec.width = TakeNumber(text, &pos);
  if (at(",_")) spec.grouping = text[pos++];
  if (at(".")) {
    ++pos;
    spec.precision = TakeNumber(text, &pos);
  }
  if (pos < text.size()) spec.type = text[pos++];
  if (pos < text.size()) context.Fail("Invalid format specifier '{}'", text);
  context.CheckSize(static_cast<double>(spec.width));
  return spec;
}

std::string FormatWithSpec(Context& context, const Value& value, std::string_view text) {
  if (text.empty()) return Str(value);
  const Spec spec = ParseSpec(context, text, value.is_number());
  if (context.failed()) return {};
  if (value.is_number()) {
    static constexpr std::string_view kTypes = "dxXobcneEfFgG%";
    if (spec.type != '\0' && kTypes.find(spec.type) == std::string_view::npos) {
      context.Fail("Unknown format code '{}' for object of type '{}'", spec.type, TypeName(value));
      return {};
    }
    return FormatNumber(context, value, spec);
  }
  if (!value.is_string()) {
    context.Fail("unsupported format string passed to {}.__format__", TypeName(value));
    return {};
  }
  if (spec.type != '\0' && spec.type != 's') {
    context.Fail("Unknown format code '{}' for object of type 'str'", spec.type);
    return {};
  }
  return FormatText(value.string(), spec);
}

class BraceFormatter {
 public:
  BraceFormatter(Context& context, const Arguments& arguments)
      : context_(context), arguments_(arguments) {}

  // `depth`: format specifications may hold fields, but no deeper.
  std::string Run(std::string_view format, int depth) {
    std::string out;
    for (size_t pos = 0; pos < format.size() && !context_.failed();) {
      const char c = format[pos];
      if ((c == '{' || c == '}') && pos + 1 < format.size() && format[pos + 1] == c) {
        out.push_back(c);
        pos += 2;
      } else if (c == '}') {
        context_.Fail("Single '}}' encountered in format string");
      } else if (c == '{') {
        const size_t end = FieldEnd(format, pos);
        if (end == std::string_view::npos || depth > 1) {
          context_.Fail("expected '}}' before end of string");
          break;
        }
        out += Field(format.substr(pos + 1, end - pos - 1), depth);
        pos = end + 1;
      } else {
        out.push_back(c);
        ++pos;
      }
      if (!context_.CheckSize(static_cast<double>(out.size()))) break;
    }
    return out;
  }

 private:
  static size_t FieldEnd(std::string_view format, size_t begin) {
    int open = 0;
    for (size_t i = begin; i < format.size(); ++i) {
      if (format[i] == '{') ++open;
      if (format[i] == '}' && --open == 0) return i;
    }
    return std::string_view::npos;
  }

  // name!conversion:spec
  std::string Field(std::string_view field, int depth) {
    const size_t name_end = std::min(field.find_first_of("!:"), field.size());
    Value value = Lookup(field.substr(0, name_end));
    field.remove_prefix(name_end);
    if (field.size() >= 2 && field[0] == '!') {
      value = Value::String(field[1] == 's' ? Str(value) : Repr(value));
      field.remove_prefix(2);
    }
    std::string spec;
    if (!field.empty() && field[0] == ':') spec = Run(field.substr(1), depth + 1);
    if (context_.failed()) return {};
    return FormatWithSpec(context_, value, spec);
  }

  // name, or its position, with .attribute and [item] after it.
  Value Lookup(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    const std::string_view name = path.substr(0, end);
    Value value = Argument(name);
    path.remove_prefix(end);
    while (!path.empty() && !context_.failed()) {
      const bool is_item = path[0] == '[';
      path.remove_prefix(1);
      const size_t stop =
          std::min(is_item ? path.find(']') : path.find_first_of(".["), path.size());
      const std::string_view key = path.substr(0, stop);
      if (is_item) {
        const std::optional<int64_t> index = Digits(key);
        value =
            GetItem(context_, value, index ? Value::Int(*index) : Value::String(std::string(key)));
        path.remove_prefix(std::min(stop + 1, path.size()));
      } else {
        value = GetAttribute(context_, value, key);
        path.remove_prefix(stop);
      }
    }
    return value;
  }

  static std::optional<int64_t> Digits(std::string_view text) {
    size_t pos = 0;
    const int64_t number = TakeNumber(text, &pos);
    if (text.empty() || pos != text.size()) return std::nullopt;
    return number;
  }

  Value Argument(std::string_view name) {
    const std::optional<int64_t> number = name.empty() ? next_++ : Digits(name);
    if (number.has_value()) {
      if (*number < static_cast<int64_t>(arguments_.positional.size())) {
        return arguments_.positional[*number];
      }
      return context_.Fail("Replacement index {} out of range for positional args tuple", *number);
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    return context_.Fail("{}", Quote(name));
  }

  Context& context_;
  const Arguments& arguments_;
  int64_t next_ = 0;
};

}  // namespace

Value PercentFormat(Context& context, std::string_view format, const Value& values) {
  return PercentFormatter(context, format, values).Run();
}

Value BraceFormat(Context& context, std::string_view format, const Arguments& arguments) {
  std::string text = BraceFormatter(context, arguments).Run(format, 0);
  return context.NewString(std::move(text));
}

}  // namespace hostler::jinja
