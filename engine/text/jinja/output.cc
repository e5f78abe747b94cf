#include "engine/text/jinja/output.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/base/utf8.h"
#include "engine/text/jinja/py_string.h"
#include "fmt/format.h"

namespace hostler::jinja {
namespace {

// Namespaces can hold themselves, so what they hold has no bounds.
constexpr int kMaxReprDepth = 2 * kMaxNesting;
constexpr size_t kMaxReprBytes = (size_t{64} << 20) + 1;  // too long for any string

void AppendRepr(const Value& value, int depth, std::string* out);

void AppendItems(const ValueList& items, int depth, std::string* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->append(", ");
    AppendRepr(items[i], depth + 1, out);
  }
}

void AppendSequence(const Value& value, int depth, std::string* out) {
  const Sequence& sequence = value.sequence();
  switch (value.kind()) {
    case Kind::kTuple:
      out->push_back('(');
      AppendItems(sequence.items, depth, out);
      out->append(sequence.items.size() == 1 ? ",)" : ")");
      return;
    case Kind::kRange:
      out->append(fmt::format("range({}, {}", sequence.range[0], sequence.range[1]));
      if (sequence.range[2] != 1) out->append(fmt::format(", {}", sequence.range[2]));
      out->push_back(')');
      return;
    case Kind::kView:
      out->append(sequence.view + "([");
      AppendItems(sequence.items, depth, out);
      out->append("])");
      return;
    case Kind::kGenerator:
      out->append("<generator object>");
      return;
    default:
      out->push_back('[');
      AppendItems(sequence.items, depth, out);
      out->push_back(']');
  }
}

template <typename Entries, typename AppendKey>
void AppendEntries(const Entries& entries, int depth, AppendKey append_key, std::string* out) {
  out->push_back('{');
  bool first = true;
  for (const auto& [key, value] : entries) {
    if (!first) out->append(", ");
    first = false;
    append_key(key);
    out->append(": ");
    AppendRepr(value, depth + 1, out);
  }
  out->push_back('}');
}

void AppendRepr(const Value& value, int depth, std::string* out) {
  if (out->size() > kMaxReprBytes) return;
  if (depth > kMaxReprDepth) {
    out->append("...");
    return;
  }
  switch (value.kind()) {
    case Kind::kUndefined:
      out->append("Undefined");
      return;
    case Kind::kString:
      out->append(Quote(value.string()));
      return;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kGenerator:
      AppendSequence(value, depth, out);
      return;
    case Kind::kDict:
      AppendEntries(
          value.dict().entries, depth, [&](const Value& key) { AppendRepr(key, depth + 1, out); },
          out);
      return;
    case Kind::kNamespace:
      out->append("<Namespace ");
      AppendEntries(
          value.space()->attributes, depth,
          [&](const std::string& key) { out->append(Quote(key)); }, out);
      out->push_back('>');
      return;
    case Kind::kLoop: {
      const auto loop = value.loop();
      out->append(fmt::format("<LoopContext {}/{}>", loop->index + 1, loop->items.size()));
      return;
    }
    case Kind::kCallable:
      out->append(value.callable().name);
      return;
    default:
      out->append(Str(value));
  }
}

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const bool negative = text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  int exponent = 0;
  const std::string_view power = text.substr(text[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits.append(text.substr(2, e - 2));
  const int count = static_cast<int>(digits.size());
  std::string out;
  if (exponent < -4 || exponent >= 16) {
    out = digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out = "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out = digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out = digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
  }
  return (negative ? "-" : "") + out;
}

std::string Str(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return {};
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.boolean() ? "True" : "False";
    case Kind::kInt:
      return std::to_string(value.integer());
    case Kind::kFloat:
      return FloatRepr(value.real());
    case Kind::kString:
      return value.string();
    default:
      return Repr(value);
  }
}

std::string Repr(const Value& value) {
  std::string out;
  AppendRepr(value, 0, &out);
  return out;
}

namespace {

class JsonWriter {
 public:
  JsonWriter(Context& context, const JsonStyle& style) : context_(context), style_(style) {}

  void Write(const Value& value, int level) {
    if (context_.failed() || !context_.CheckSize(static_cast<double>(out_.size()))) return;
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return;
      case Kind::kBool:
        out_ += value.boolean() ? "true" : "false";
        return;
      case Kind::kInt:
        out_ += std::to_string(value.integer());
        return;
      case Kind::kFloat:
        out_ += Number(value.real());
        return;
      case Kind::kString:
        WriteString(value.string());
        return;
      case Kind::kList:
      case Kind::kTuple:
        WriteList(value.items(), level);
        return;
      case Kind::kDict:
        WriteDict(value.dict(), level);
        return;
      default:
        context_.Fail("Object of type {} is not JSON serializable", TypeName(value));
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  static std::string Number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return FloatRepr(value);
  }

  void WriteEscape(uint32_t unit) { out_ += fmt::format("\\u{:04x}", unit); }

  void WriteString(std::string_view text) {
    out_.push_back('"');
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = NextCodePoint(text, &pos);
      static constexpr std::string_view kShort = "\"\\\n\r\t\f\b";
      static constexpr std::string_view kLetters = "\"\\nrtfb";
      const size_t known = c < 0x80 ? kShort.find(static_cast<char>(c)) : std::string_view::npos;
      if (known != std::string_view::npos) {
        out_.push_back('\\');
        out_.push_back(kLetters[known]);
      } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7E && c < 0x10000)) {
        WriteEscape(c);
      } else if (style_.ensure_ascii && c >= 0x10000) {
        WriteEscape(0xD800 + ((c - 0x10000) >> 10));
        WriteEscape(0xDC00 + ((c - 0x10000) & 0x3FF));
      } else {
        out_.append(text.substr(begin, pos - begin));
      }
    }
    out_.push_back('"');
  }

  // The line break (or nothing) before an item at `level`.
  void Break(int level) {
    if (!style_.indent.has_value()) return;
    out_.push_back('\n');
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void WriteList(const ValueList& items, int level) {
    out_.push_back('[');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      Break(level + 1);
      Write(items[i], level + 1);
    }
    if (!items.empty()) Break(level);
    out_.push_back(']');
  }

  void WriteDict(const Dict& dict, int level) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries) entries.emplace_back(Key(key), &value);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out_.push_back('{');
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      Break(level + 1);
      WriteString(entries[i].first);
      out_ += style_.key_separator;
      Write(*entries[i].second, level + 1);
    }
    if (!entries.empty()) Break(level);
    out_.push_back('}');
  }

  std::string Key(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        return key.string();
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return key.boolean() ? "true" : "false";
      case Kind::kInt:
        return std::to_string(key.integer());
      case Kind::kFloat:
        return Number(key.real());
      default:
        context_.Fail("keys must be str, int, float, bool or None, not {}", TypeName(key));
        return {};
    }
  }

  Context& context_;
  const JsonStyle& style_;
  std::string out_;
};

Value ConvertJson(Context& context, const nlohmann::ordered_json& json, int depth) {
  using Type = nlohmann::ordered_json::value_t;
  if (depth >= kMaxNesting) return context.Fail("the input nests deeper than {}", kMaxNesting);
  switch (json.type()) {
    case Type::boolean:
      return Value::Bool(json.get<bool>());
    case Type::number_integer:
      return Value::Int(json.get<int64_t>());
    case Type::number_unsigned: {
      const auto number = json.get<uint64_t>();
      if (number > INT64_MAX) return Value::Float(static_cast<double>(number));
      return Value::Int(static_cast<int64_t>(number));
    }
    case Type::number_float:
      return Value::Float(json.get<double>());
    case Type::string: {
      const auto& text = json.get_ref<const std::string&>();
      return Value::String(IsUtf8(text) ? text : ReplaceBadBytes(text));
    }
    case Type::array: {
      ValueList items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(ConvertJson(context, item, depth + 1));
      return Value::List(std::move(items));
    }
    case Type::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        dict.Set(Value::String(IsUtf8(key) ? key : ReplaceBadBytes(key)),
                 ConvertJson(context, item, depth + 1));
      }
      return Value::Of(std::move(dict));
    }
    default:
      return Value::None();
  }
}

}  // namespace

std::string ToJson(Context& context, const Value& value, const JsonStyle& style) {
  JsonWriter writer(context, style);
  writer.Write(value, 0);
  return writer.Take();
}

Value FromJson(Context& context, const nlohmann::ordered_json& json) {
  return ConvertJson(context, json, 0);
}

}  // namespace hostler::jinja
