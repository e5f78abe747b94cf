// Filters on lists and dicts.
#include <algorithm>
#include <set>
#include <utility>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

// A lazy filter's result. What fails in making it fails where it is read.
Value Lazy(Context& context, ValueList items) {
  std::string error;
  if (context.failed()) error = context.TakeError();
  return context.NewSequence(Sequence{.items = std::move(items), .lazy_error = std::move(error)},
                             Kind::kGenerator);
}

// -- Attributes of items ------------------------------------------------------

// "a.b.0" is item["a"]["b"][0].
class AttributeGetter {
 public:
  explicit AttributeGetter(const Value* attribute) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (!attribute->is_string()) {
      path_.push_back(*attribute);
      return;
    }
    for (const std::string& part : SplitText(attribute->string(), ".", -1, false)) {
      const bool is_index =
          !part.empty() && part.size() < 10 &&
          std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
      path_.push_back(is_index ? Value::Int(std::stoll(part)) : Value::String(part));
    }
  }

  Value Get(Context& context, Value item, const Value* otherwise = nullptr) const {
    for (const Value& part : path_) {
      item = GetItem(context, item, part);
      if (otherwise != nullptr && !otherwise->is_none() && item.is_undefined()) item = *otherwise;
    }
    return item;
  }

 private:
  ValueList path_;
};

Value IgnoreCase(const Value& value) {
  return value.is_string() ? Value::String(Lower(value.string())) : value;
}

ValueList SortKeys(Context& context, const ValueList& items, const AttributeGetter& getter,
                   bool case_sensitive) {
  ValueList keys;
  for (const Value& item : items) {
    const Value key = getter.Get(context, item);
    keys.push_back(case_sensitive ? key : IgnoreCase(key));
  }
  return keys;
}

// The order that sorting `keys` gives, stable. Merge sort, because comparing
// may fail and must never be trusted to be a strict order.
std::vector<size_t> SortedOrder(Context& context, const ValueList& keys, bool reverse) {
  std::vector<size_t> order(keys.size()), merged(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order.size());
      const size_t end = std::min(begin + 2 * width, order.size());
      size_t left = begin, right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          const Value& a = keys[order[left]];
          const Value& b = keys[order[right]];
          take_right = reverse ? Less(context, a, b) : Less(context, b, a);
        }
        merged[out] = order[take_right ? right++ : left++];
      }
    }
    std::swap(order, merged);
    if (!context.Charge(order.size())) break;
  }
  return order;
}

// -- Plain ones ---------------------------------------------------------------

Value Count(Context& context, const Value& input, const Arguments&) {
  const std::optional<int64_t> length = LengthOf(input);
  if (length.has_value()) return Value::Int(*length);
  return context.Fail("object of type '{}' has no len()", TypeName(input));
}

Value First(Context& context, const Value& input, const Arguments&) {
  const ValueList items = Iterate(context, input);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

Value Last(Context& context, const Value& input, const Arguments&) {
  if (input.is(Kind::kGenerator)) return context.Fail("'generator' object is not reversible");
  const ValueList items = Iterate(context, input);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Value ToList(Context& context, const Value& input, const Arguments&) {
  return context.NewList(Iterate(context, input));
}

Value Join(Context& context, const Value& input, const Arguments& arguments) {
  const Value* separator = arguments.Get(0, "d");
  const std::string between = separator == nullptr ? "" : Str(*separator);
  const AttributeGetter getter(arguments.Get(1, "attribute"));
  std::string out;
  bool first = true;
  for (const Value& item : Iterate(context, input)) {
    if (!first) out += between;
    first = false;
    out += Str(getter.Get(context, item));
    if (!context.CheckSize(static_cast<double>(out.size()))) return {};
  }
  return context.NewString(std::move(out));
}

Value Reverse(Context& context, const Value& input, const Arguments&) {
  if (input.is_string()) {
    std::u32string characters = ToCharacters(input.string());
    std::reverse(characters.begin(), characters.end());
    return context.NewString(FromCharacters(characters));
  }
  ValueList items = Iterate(context, input);
  std::reverse(items.begin(), items.end());
  if (input.is(Kind::kGenerator)) return context.NewList(std::move(items));
  return context.NewList(std::move(items), Kind::kGenerator);
}

Value Sum(Context& context, const Value& input, const Arguments& arguments) {
  const AttributeGetter getter(arguments.Get(0, "attribute"));
  const Value* start = arguments.Get(1, "start");
  Value total = start == nullptr ? Value::Int(0) : *start;
  for (const Value& item : Iterate(context, input)) {
    total = Arithmetic(context, "+", total, getter.Get(context, item));
    if (context.failed()) return {};
  }
  return total;
}

template <bool kMax>
Value Extreme(Context& context, const Value& input, const Arguments& arguments) {
  const ValueList items = Iterate(context, input);
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  const AttributeGetter getter(arguments.Get(1, "attribute"));
  const ValueList keys = SortKeys(context, items, getter, case_sensitive);
  size_t best = 0;
  for (size_t i = 1; i < keys.size(); ++i) {
    const bool better =
        kMax ? Less(context, keys[best], keys[i]) : Less(context, keys[i], keys[best]);
    if (better) best = i;
  }
  return items[best];
}

Value Sort(Context& context, const Value& input, const Arguments& arguments) {
  const bool reverse = BoolArgument(arguments, 0, "reverse", false);
  const bool case_sensitive = BoolArgument(arguments, 1, "case_sensitive", false);
  const Value* attribute = arguments.Get(2, "attribute");
  const ValueList items = Iterate(context, input);
  std::vector<AttributeGetter> getters;
  if (attribute != nullptr && attribute->is_string()) {
    for (const std::string& part : SplitText(attribute->string(), ",", -1, false)) {
      const Value name = Value::String(part);
      getters.emplace_back(&name);
    }
  } else {
    getters.emplace_back(attribute);
  }
  ValueList keys;
  for (const Value& item : items) {
    ValueList key;
    for (const AttributeGetter& getter : getters) {
      const Value part = getter.Get(context, item);
      key.push_back(case_sensitive ? part : IgnoreCase(part));
    }
    keys.push_back(Value::List(std::move(key)));
  }
  ValueList sorted;
  for (size_t i : SortedOrder(context, keys, reverse)) sorted.push_back(items[i]);
  return context.NewList(std::move(sorted));
}

Value Unique(Context& context, const Value& input, const Arguments& arguments) {
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  const AttributeGetter getter(arguments.Get(1, "attribute"));
  std::set<std::string> seen;
  ValueList unique;
  for (const Value& item : Iterate(context, input)) {
    const Value key = getter.Get(context, item);
    const auto identity = HashIdentity(case_sensitive ? key : IgnoreCase(key));
    if (!identity.has_value()) context.Fail("unhashable type: '{}'", TypeName(key));
    if (context.failed()) break;
    if (seen.insert(*identity).second) unique.push_back(item);
  }
  return Lazy(context, std::move(unique));
}

// -- Dicts --------------------------------------------------------------------

Value Items(Context& context, const Value& input, const Arguments&) {
  ValueList items;
  if (input.is(Kind::kDict)) {
    for (const auto& [key, value] : input.dict().entries) {
      items.push_back(Value::List({key, value}, Kind::kTuple));
    }
  } else if (!input.is_undefined()) {
    context.Fail("Can only get item pairs from a mapping.");
  }
  return Lazy(context, std::move(items));
}

Value DictSort(Context& context, const Value& input, const Arguments& arguments) {
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  const std::string by = TextArgument(context, arguments, 1, "by", "key");
  const bool reverse = BoolArgument(arguments, 2, "reverse", false);
  if (by != "key" && by != "value") {
    return context.Fail("You can only sort by either \"key\" or \"value\"");
  }
  if (!input.is(Kind::kDict)) {
    return context.Fail("'{}' has no attribute 'items'", TypeName(input));
  }
  ValueList items, keys;
  for (const auto& [key, value] : input.dict().entries) {
    items.push_back(Value::List({key, value}, Kind::kTuple));
    const Value& by_what = by == "key" ? key : value;
    keys.push_back(case_sensitive ? by_what : IgnoreCase(by_what));
  }
  ValueList sorted;
  for (size_t i : SortedOrder(context, keys, reverse)) sorted.push_back(items[i]);
  return context.NewList(std::move(sorted));
}

Value Attribute(Context& context, const Value& input, const Arguments& arguments) {
  const std::string name = TextArgument(context, arguments, 0, "name", "");
  if (input.is_undefined()) return context.Fail("{}", input.undefined_message());
  // Attributes only, no items.
  if (input.is(Kind::kDict) && input.dict().Find(name) != nullptr) {
    return Value::Undefined(fmt::format("'dict object' has no attribute {}", Quote(name)));
  }
  return GetAttribute(context, input, name);
}

// -- Groups -------------------------------------------------------------------

Value Batch(Context& context, const Value& input, const Arguments& arguments) {
  const int64_t size = NumberArgument(context, arguments, 0, "linecount", 0);
  const Value* fill = arguments.Get(1, "fill_with");
  ValueList batches, batch;
  const ValueList items = Iterate(context, input);
  for (const Value& item : items) {
    if (static_cast<int64_t>(batch.size()) == size) {
      batches.push_back(Value::List(std::exchange(batch, {})));
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    const bool filled = fill != nullptr && !fill->is_none();
    while (filled && static_cast<int64_t>(batch.size()) < size && context.Charge(8)) {
      batch.push_back(*fill);
    }
    batches.push_back(Value::List(std::move(batch)));
  }
  return Lazy(context, std::move(batches));
}

Value SliceInto(Context& context, const Value& input, const Arguments& arguments) {
  const int64_t slices = NumberArgument(context, arguments, 0, "slices", 0);
  const Value* fill = arguments.Get(1, "fill_with");
  const ValueList items = Iterate(context, input);
  if (slices <= 0) return context.Fail("slice needs a positive number");
  const auto count = static_cast<int64_t>(items.size());
  const int64_t each = count / slices, extra = count % slices;
  ValueList result;
  auto next = items.begin();
  for (int64_t i = 0; i < slices && context.Charge(16); ++i) {
    const auto end = next + each + (i < extra ? 1 : 0);
    ValueList slice(next, end);
    if (fill != nullptr && !fill->is_none() && i >= extra) slice.push_back(*fill);
    result.push_back(Value::List(std::move(slice)));
    next = end;
  }
  return Lazy(context, std::move(result));
}

Value GroupBy(Context& context, const Value& input, const Arguments& arguments) {
  const AttributeGetter getter(arguments.Get(0, "attribute"));
  const Value* otherwise = arguments.Get(1, "default");
  const bool case_sensitive = BoolArgument(arguments, 2, "case_sensitive", false);
  const ValueList items = Iterate(context, input);
  ValueList raw, keys;
  for (const Value& item : items) {
    raw.push_back(getter.Get(context, item, otherwise));
    keys.push_back(case_sensitive ? raw.back() : IgnoreCase(raw.back()));
  }
  ValueList groups, members;
  const std::vector<size_t> order = SortedOrder(context, keys, false);
  for (size_t i = 0; i < order.size(); ++i) {
    members.push_back(items[order[i]]);
    const bool ends = i + 1 == order.size() || !Equal(keys[order[i]], keys[order[i + 1]]);
    if (!ends) continue;
    const size_t first = order[i + 1 - members.size()];
    ValueList pair = {raw[first], context.NewList(std::exchange(members, {}))};
    groups.push_back(Value::Of(Sequence{.items = std::move(pair), .view = "group"}, Kind::kTuple));
  }
  return context.NewList(std::move(groups));
}

// -- map, select, ... ---------------------------------------------------------

// The arguments without the first `count` positional ones.
Arguments Rest(const Arguments& arguments, size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<ptrdiff_t>(count));
  return rest;
}

Value Map(Context& context, const Value& input, const Arguments& arguments) {
  ValueList out;
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  if (arguments.positional.empty() && attribute == nullptr) {
    return context.Fail("map requires a filter argument");
  }
  const ValueList items = Truth(input) ? Iterate(context, input) : ValueList();
  if (arguments.positional.empty()) {
    const AttributeGetter getter(attribute);
    const Value* otherwise = arguments.Get(SIZE_MAX, "default");
    for (const Value& item : items) {
      if (context.failed() || !context.Charge(1)) break;
      out.push_back(getter.Get(context, item, otherwise));
    }
    return Lazy(context, std::move(out));
  }
  const std::string name = Str(arguments.positional[0]);
  const Arguments rest = Rest(arguments, 1);
  for (const Value& item : items) {
    if (context.failed() || !context.Charge(1)) break;
    out.push_back(ApplyFilter(context, name, item, rest));
  }
  return Lazy(context, std::move(out));
}

template <bool kKeep, bool kAttribute>
Value Select(Context& context, const Value& input, const Arguments& arguments) {
  constexpr size_t kTest = kAttribute ? 1 : 0;  // position of the test's name
  if (kAttribute && arguments.positional.empty()) {
    return context.Fail("Missing parameter for attribute name");
  }
  const AttributeGetter getter(kAttribute ? &arguments.positional[0] : nullptr);
  const bool has_test = arguments.positional.size() > kTest;
  const std::string test = has_test ? Str(arguments.positional[kTest]) : "";
  const Arguments rest = has_test ? Rest(arguments, kTest + 1) : Arguments();
  ValueList out;
  const ValueList items = Truth(input) ? Iterate(context, input) : ValueList();
  for (const Value& item : items) {
    if (context.failed() || !context.Charge(1)) break;
    const Value subject = getter.Get(context, item);
    if ((has_test ? ApplyTest(context, test, subject, rest) : Truth(subject)) == kKeep) {
      out.push_back(item);
    }
  }
  return Lazy(context, std::move(out));
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"attr", Attribute},
    {"batch", Batch},
    {"count", Count},
    {"dictsort", DictSort},
    {"first", First},
    {"groupby", GroupBy},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", Count},
    {"list", ToList},
    {"map", Map},
    {"max", Extreme<true>},
    {"min", Extreme<false>},
    {"reject", Select<false, false>},
    {"rejectattr", Select<false, true>},
    {"reverse", Reverse},
    {"select", Select<true, false>},
    {"selectattr", Select<true, true>},
    {"slice", SliceInto},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

Filter FindSequenceFilter(std::string_view name) {
  for (const auto& [known, filter] : kFilters) {
    if (known == name) return filter;
  }
  return nullptr;
}

}  // namespace hostler::jinja
