#include "engine/text/jinja/methods.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_format.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

using Method = Value (*)(Context&, const Value&, const Arguments&);

struct NamedMethod {
  std::string_view name;
  Method call;
};

// The part of `text` that start and end arguments choose, in bytes.
struct Part {
  size_t begin = 0;
  size_t end = 0;
  bool empty_range = false;  // start lies behind end or the text
};

Part PartArgument(Context& context, const Arguments& arguments, size_t position,
                  std::string_view text) {
  if (arguments.positional.size() <= position) return {0, text.size(), false};
  const std::vector<size_t> offsets = CharacterOffsets(text);
  const auto length = static_cast<int64_t>(offsets.size()) - 1;
  const auto clamp = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? at + length : at, 0, length);
  };
  const int64_t start = NumberArgument(context, arguments, position, "", 0);
  const int64_t stop = NumberArgument(context, arguments, position + 1, "", length);
  const Part part{offsets[clamp(start)], offsets[clamp(stop)], false};
  if (start > length || part.begin > part.end) return {part.begin, part.begin, true};
  return part;
}

Value Texts(Context& context, std::vector<std::string> parts, Kind kind = Kind::kList) {
  ValueList items;
  size_t bytes = 0;
  for (std::string& part : parts) {
    bytes += part.size();
    items.push_back(Value::String(std::move(part)));
  }
  if (!context.Charge(bytes / 32)) return {};
  return context.NewList(std::move(items), kind);
}

// -- str ----------------------------------------------------------------------

template <std::string (*kFunction)(std::string_view)>
Value Mapped(Context& context, const Value& self, const Arguments&) {
  return context.NewString(kFunction(self.string()));
}

template <std::string_view (*kFunction)(std::string_view, std::optional<std::string_view>)>
Value Stripped(Context& context, const Value& self, const Arguments& arguments) {
  const std::optional<std::string> characters = OptionalText(context, arguments, 0, "chars");
  return context.NewString(std::string(kFunction(self.string(), characters)));
}

template <bool kFromRight>
Value Split(Context& context, const Value& self, const Arguments& arguments) {
  const std::optional<std::string> separator = OptionalText(context, arguments, 0, "sep");
  const int64_t limit = NumberArgument(context, arguments, 1, "maxsplit", -1);
  if (context.failed()) return {};
  if (separator.has_value() && separator->empty()) return context.Fail("empty separator");
  return Texts(context, SplitText(self.string(), separator, limit, kFromRight));
}

Value SplitIntoLines(Context& context, const Value& self, const Arguments& arguments) {
  const Value* keep = arguments.Get(0, "keepends");
  return Texts(context, SplitLines(self.string(), keep != nullptr && Truth(*keep)));
}

template <bool kAtEnd>
Value Affixed(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const Value& affix = arguments.positional[0];
  const Part part = PartArgument(context, arguments, 1, self.string());
  const std::string_view text =
      std::string_view(self.string()).substr(part.begin, part.end - part.begin);
  const ValueList one = {affix};
  for (const Value& item : affix.is(Kind::kTuple) ? affix.items() : one) {
    if (!item.is_string()) {
      return context.Fail("{} first arg must be str or a tuple of str, not {}",
                          kAtEnd ? "endswith" : "startswith", TypeName(item));
    }
    if (part.empty_range) continue;
    if (kAtEnd ? text.ends_with(item.string()) : text.starts_with(item.string())) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

Value Replace(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 2)) return {};
  const std::string from = TextArgument(context, arguments, 0, "", "");
  const std::string to = TextArgument(context, arguments, 1, "", "");
  const int64_t limit = NumberArgument(context, arguments, 2, "count", -1);
  if (context.failed()) return {};
  auto out = ReplaceText(self.string(), from, to, limit, context.limits().string_bytes);
  if (!out.has_value()) return context.Fail("replace makes too long a string");
  return context.NewString(*std::move(out));
}

// find, rfind, index, rindex: the character where the argument is found.
template <bool kFromRight, bool kMust>
Value Find(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const std::string what = TextArgument(context, arguments, 0, "", "");
  const Part part = PartArgument(context, arguments, 1, self.string());
  const std::string_view text =
      std::string_view(self.string()).substr(part.begin, part.end - part.begin);
  const size_t at = part.empty_range ? std::string_view::npos
                    : kFromRight     ? text.rfind(what)
                                     : text.find(what);
  if (at != std::string_view::npos) {
    return Value::Int(Length(std::string_view(self.string()).substr(0, part.begin + at)));
  }
  if (kMust) return context.Fail("substring not found");
  return Value::Int(-1);
}

Value CountText(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const std::string what = TextArgument(context, arguments, 0, "", "");
  const Part part = PartArgument(context, arguments, 1, self.string());
  const std::string_view text =
      std::string_view(self.string()).substr(part.begin, part.end - part.begin);
  if (part.empty_range) return Value::Int(0);
  if (what.empty()) return Value::Int(Length(text) + 1);
  int64_t count = 0;
  for (size_t at = text.find(what); at != std::string_view::npos;
       at = text.find(what, at + what.size())) {
    ++count;
  }
  return Value::Int(count);
}

Value Join(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  std::string out;
  bool first = true;
  for (const Value& item : Iterate(context, arguments.positional[0])) {
    if (!item.is_string()) {
      return context.Fail("sequence item: expected str instance, {} found", TypeName(item));
    }
    if (!first) out += self.string();
    first = false;
    out += item.string();
    if (!context.CheckSize(static_cast<double>(out.size()))) return {};
  }
  return context.NewString(std::move(out));
}

template <char kAlign>
Value Padded(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const int64_t width = NumberArgument(context, arguments, 0, "", 0);
  const std::string fill = TextArgument(context, arguments, 1, "", " ");
  if (context.failed() || !context.CheckSize(4.0 * static_cast<double>(width))) return {};
  if (Length(fill) != 1)
    return context.Fail("The fill character must be exactly one character long");
  return context.NewString(Pad(self.string(), width, fill, kAlign));
}

Value ZeroFill(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const int64_t width = NumberArgument(context, arguments, 0, "", 0);
  if (context.failed() || !context.CheckSize(static_cast<double>(width))) return {};
  const std::string& text = self.string();
  const size_t sign = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  return context.NewString(text.substr(0, sign) + Pad(std::string_view(text).substr(sign),
                                                      width - static_cast<int64_t>(sign), "0",
                                                      '>'));
}

template <bool kAtEnd>
Value WithoutAffix(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const std::string affix = TextArgument(context, arguments, 0, "", "");
  std::string_view text = self.string();
  if (kAtEnd && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!kAtEnd && text.starts_with(affix)) text.remove_prefix(affix.size());
  return context.NewString(std::string(text));
}

template <bool kFromRight>
Value Partition(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const std::string separator = TextArgument(context, arguments, 0, "", "");
  if (context.failed()) return {};
  if (separator.empty()) return context.Fail("empty separator");
  const std::string& text = self.string();
  const size_t at = kFromRight ? text.rfind(separator) : text.find(separator);
  std::vector<std::string> parts;
  if (at != std::string::npos) {
    parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  } else if (kFromRight) {
    parts = {"", "", text};
  } else {
    parts = {text, "", ""};
  }
  return Texts(context, std::move(parts), Kind::kTuple);
}

Value ExpandTabs(Context& context, const Value& self, const Arguments& arguments) {
  const int64_t size = NumberArgument(context, arguments, 0, "tabsize", 8);
  if (!context.CheckSize(static_cast<double>(self.string().size()) *
                         static_cast<double>(std::max<int64_t>(size, 1)))) {
    return {};
  }
  std::string out;
  int64_t column = 0;
  for (char c : self.string()) {
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      continue;
    }
    out.push_back(c);
    if (c == '\n' || c == '\r') {
      column = 0;
    } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {
      ++column;
    }
  }
  return context.NewString(std::move(out));
}

Value Format(Context& context, const Value& self, const Arguments& arguments) {
  return BraceFormat(context, self.string(), arguments);
}

constexpr NamedMethod kStringMethods[] = {
    {"capitalize", Mapped<Capitalize>},
    {"casefold", Mapped<Lower>},
    {"center", Padded<'c'>},
    {"count", CountText},
    {"endswith", Affixed<true>},
    {"expandtabs", ExpandTabs},
    {"find", Find<false, false>},
    {"format", Format},
    {"index", Find<false, true>},
    {"join", Join},
    {"ljust", Padded<'<'>},
    {"lower", Mapped<Lower>},
    {"lstrip", Stripped<StripLeft>},
    {"partition", Partition<false>},
    {"removeprefix", WithoutAffix<false>},
    {"removesuffix", WithoutAffix<true>},
    {"replace", Replace},
    {"rfind", Find<true, false>},
    {"rindex", Find<true, true>},
    {"rjust", Padded<'>'>},
    {"rpartition", Partition<true>},
    {"rsplit", Split<true>},
    {"rstrip", Stripped<StripRight>},
    {"split", Split<false>},
    {"splitlines", SplitIntoLines},
    {"startswith", Affixed<false>},
    {"strip", Stripped<Strip>},
    {"swapcase", Mapped<SwapCase>},
    {"title", Mapped<Title>},
    {"upper", Mapped<Upper>},
    {"zfill", ZeroFill},
};

constexpr std::string_view kStringClasses[] = {
    "isalnum", "isalpha",   "isascii",     "isdecimal", "isdigit", "isidentifier",
    "islower", "isnumeric", "isprintable", "isspace",   "istitle", "isupper"};

// -- dict, list, tuple --------------------------------------------------------

Value Get(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const Value& key = arguments.positional[0];
  if (!HashIdentity(key).has_value()) {
    return context.Fail("unhashable type: '{}'", TypeName(key));
  }
  if (const Value* value = self.dict().Find(key); value != nullptr) return *value;
  return arguments.positional.size() > 1 ? arguments.positional[1] : Value::None();
}

Value View(Context& context, const char* name, ValueList items) {
  return context.NewSequence(Sequence{.items = std::move(items), .view = name}, Kind::kView);
}

Value Keys(Context& context, const Value& self, const Arguments&) {
  ValueList items;
  for (const auto& [key, value] : self.dict().entries) items.push_back(key);
  return View(context, "dict_keys", std::move(items));
}

Value Values(Context& context, const Value& self, const Arguments&) {
  ValueList items;
  for (const auto& [key, value] : self.dict().entries) items.push_back(value);
  return View(context, "dict_values", std::move(items));
}

Value Items(Context& context, const Value& self, const Arguments&) {
  ValueList items;
  if (!context.Charge(8 * self.dict().entries.size())) return {};
  for (const auto& [key, value] : self.dict().entries) {
    items.push_back(Value::List({key, value}, Kind::kTuple));
  }
  return View(context, "dict_items", std::move(items));
}

// Values do not change, so a copy is the same.
Value Copy(Context&, const Value& self, const Arguments&) { return self; }

Value IndexOf(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const ValueList& items = self.items();
  context.Charge(self.weight());
  const auto at = std::find_if(items.begin(), items.end(), [&](const Value& item) {
    return Equal(item, arguments.positional[0]);
  });
  if (at != items.end()) return Value::Int(at - items.begin());
  return context.Fail("{} is not in {}", Repr(arguments.positional[0]), TypeName(self));
}

Value CountItems(Context& context, const Value& self, const Arguments& arguments) {
  if (!Require(context, arguments, 1)) return {};
  const ValueList& items = self.items();
  context.Charge(self.weight());
  return Value::Int(std::count_if(items.begin(), items.end(), [&](const Value& item) {
    return Equal(item, arguments.positional[0]);
  }));
}

constexpr NamedMethod kDictMethods[] = {
    {"copy", Copy}, {"get", Get}, {"items", Items}, {"keys", Keys}, {"values", Values}};
constexpr std::string_view kUnsafeDictMethods[] = {"clear", "pop", "popitem", "setdefault",
                                                   "update"};

constexpr NamedMethod kListMethods[] = {{"copy", Copy}, {"count", CountItems}, {"index", IndexOf}};
constexpr std::string_view kUnsafeListMethods[] = {"append", "clear",  "extend",  "insert",
                                                   "pop",    "remove", "reverse", "sort"};

constexpr NamedMethod kTupleMethods[] = {{"count", CountItems}, {"index", IndexOf}};

Value IsWhole(Context&, const Value& self, const Arguments&) {
  return Value::Bool(std::floor(self.real()) == self.real());
}

constexpr NamedMethod kFloatMethods[] = {{"is_integer", IsWhole}};

Value BitLength(Context&, const Value& self, const Arguments&) {
  const int64_t integer = self.integer();
  uint64_t magnitude =
      integer < 0 ? ~static_cast<uint64_t>(integer) + 1 : static_cast<uint64_t>(integer);
  int64_t bits = 0;
  for (; magnitude > 0; magnitude >>= 1) ++bits;
  return Value::Int(bits);
}

constexpr NamedMethod kIntMethods[] = {{"bit_length", BitLength}};

// -- Lookup -------------------------------------------------------------------

template <typename Methods>
std::optional<Value> FindIn(const Methods& methods, const Value& object, std::string_view name) {
  for (const NamedMethod& method : methods) {
    if (method.name != name) continue;
    return Value::Of(
        Callable{fmt::format("<built-in method {} of {} object>", name, TypeName(object)),
                 [call = method.call, object](Context& context, const Arguments& arguments) {
                   if (!context.Charge(object.is_string() ? object.weight() : 1)) return Value();
                   return call(context, object, arguments);
                 }});
  }
  return std::nullopt;
}

template <typename Names>
bool Has(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Value Unsafe(const Value& object, std::string_view name) {
  return Value::Undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(object)));
}

std::optional<Value> FindStringMethod(const Value& object, std::string_view name) {
  if (Has(kStringClasses, name)) {
    return Value::Of(Callable{fmt::format("<built-in method {} of str object>", name),
                              [object, name = std::string(name)](Context&, const Arguments&) {
                                return Value::Bool(HasClass(object.string(), name));
                              }});
  }
  return FindIn(kStringMethods, object, name);
}

}  // namespace

std::optional<Value> FindMethod(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kString:
      return FindStringMethod(object, name);
    case Kind::kDict:
      if (Has(kUnsafeDictMethods, name)) return Unsafe(object, name);
      return FindIn(kDictMethods, object, name);
    case Kind::kList:
      if (Has(kUnsafeListMethods, name)) return Unsafe(object, name);
      return FindIn(kListMethods, object, name);
    case Kind::kTuple:
      // What groupby yields has names for its two items.
      if (object.sequence().view == "group" && name == "grouper") return object.items()[0];
      if (object.sequence().view == "group" && name == "list") return object.items()[1];
      return FindIn(kTupleMethods, object, name);
    case Kind::kRange:
      return FindIn(kTupleMethods, object, name);
    case Kind::kFloat:
      return FindIn(kFloatMethods, object, name);
    case Kind::kBool:
    case Kind::kInt:
      return FindIn(kIntMethods, object, name);
    default:
      return std::nullopt;
  }
}

}  // namespace hostler::jinja
