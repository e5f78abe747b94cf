#include "engine/text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_format.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

Value Overflow(Context& context) { return context.Fail("integer is too large"); }

Value FloorDivide(Context& context, int64_t a, int64_t b) {
  if (b == -1) return a == INT64_MIN ? Overflow(context) : Value::Int(-a);
  const int64_t quotient = a / b;
  return Value::Int(a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient);
}

Value Modulo(int64_t a, int64_t b) {
  if (b == -1) return Value::Int(0);
  const int64_t rest = a % b;
  return Value::Int(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

Value IntegerPower(Context& context, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return context.Fail("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
      return Overflow(context);
    }
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow(context);
  }
  return Value::Int(result);
}

Value IntegerArithmetic(Context& context, std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &result) ? Overflow(context) : Value::Int(result);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &result) ? Overflow(context) : Value::Int(result);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &result) ? Overflow(context) : Value::Int(result);
  if (op == "**") return IntegerPower(context, a, b);
  if (b == 0) return context.Fail("division by zero");
  if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (op == "//") return FloorDivide(context, a, b);
  return Modulo(a, b);
}

Value FloatArithmetic(Context& context, std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  if (b == 0) return context.Fail("float division by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(std::floor(a / b));
  const double rest = std::fmod(a, b);
  return Value::Float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

Value Repeat(Context& context, const Value& what, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (what.is_string()) {
    const std::string& text = what.string();
    if (!context.CheckSize(static_cast<double>(text.size()) * static_cast<double>(times)))
      return {};
    std::string out;
    for (int64_t i = 0; i < times && !text.empty(); ++i) out += text;
    return context.NewString(std::move(out));
  }
  const ValueList& items = what.items();
  if (items.empty()) return what;
  if (times > static_cast<int64_t>(context.limits().steps) ||
      !context.Charge(items.size() * static_cast<uint64_t>(times))) {
    return context.Fail("a list repeated {} times is too long", times);
  }
  ValueList out;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return context.NewList(std::move(out), what.kind());
}

Value Add(Context& context, const Value& a, const Value& b) {
  if (a.is_string()) {
    if (b.is_string()) return context.NewString(a.string() + b.string());
    return context.Fail("can only concatenate str (not \"{}\") to str", TypeName(b));
  }
  if ((a.is(Kind::kList) || a.is(Kind::kTuple)) && a.is(b.kind())) {
    ValueList items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return context.NewList(std::move(items), a.kind());
  }
  if (a.is(Kind::kList) || a.is(Kind::kTuple)) {
    return context.Fail("can only concatenate {0} (not \"{1}\") to {0}", TypeName(a), TypeName(b));
  }
  return context.Fail("unsupported operand type(s) for +: '{}' and '{}'", TypeName(a), TypeName(b));
}

bool IsRepeatable(const Value& value) {
  return value.is_string() || value.is(Kind::kList) || value.is(Kind::kTuple);
}

}  // namespace

Value Arithmetic(Context& context, std::string_view op, const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) {
    return IntegerArithmetic(context, op, a.integer(), b.integer());
  }
  if (a.is_number() && b.is_number())
    return FloatArithmetic(context, op, a.AsDouble(), b.AsDouble());
  if (op == "%" && a.is_string()) return PercentFormat(context, a.string(), b);
  if (a.is_undefined()) return context.Fail("{}", a.undefined_message());
  if (b.is_undefined()) return context.Fail("{}", b.undefined_message());
  if (op == "+") return Add(context, a, b);
  if (op == "*" && IsRepeatable(a) && b.is_integer()) return Repeat(context, a, b.integer());
  if (op == "*" && IsRepeatable(b) && a.is_integer()) return Repeat(context, b, a.integer());
  return context.Fail("unsupported operand type(s) for {}: '{}' and '{}'", op, TypeName(a),
                      TypeName(b));
}

Value Negate(Context& context, const Value& value) {
  if (value.is_integer()) {
    if (value.integer() == INT64_MIN) return Overflow(context);
    return Value::Int(-value.integer());
  }
  if (value.is(Kind::kFloat)) return Value::Float(-value.real());
  if (value.is_undefined()) return context.Fail("{}", value.undefined_message());
  return context.Fail("bad operand type for unary -: '{}'", TypeName(value));
}

bool Less(Context& context, const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.AsDouble() < b.AsDouble();
  if (a.is_string() && b.is_string()) return a.string() < b.string();
  if ((a.is(Kind::kList) || a.is(Kind::kTuple)) && a.is(b.kind())) {
    const ValueList& left = a.items();
    const ValueList& right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!Equal(left[i], right[i])) return Less(context, left[i], right[i]);
    }
    return left.size() < right.size();
  }
  if (a.is_undefined() || b.is_undefined()) {
    context.Fail("{}", (a.is_undefined() ? a : b).undefined_message());
  } else {
    context.Fail("'<' not supported between instances of '{}' and '{}'", TypeName(a), TypeName(b));
  }
  return false;
}

bool Compare(Context& context, std::string_view op, const Value& a, const Value& b) {
  context.Charge(std::min(a.weight(), b.weight()));
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in") return Contains(context, b, a);
  if (op == "not in") return !Contains(context, b, a);
  const bool is_nan =
      a.is_number() && b.is_number() && (std::isnan(a.AsDouble()) || std::isnan(b.AsDouble()));
  if (is_nan) return false;
  if (op == "<") return Less(context, a, b);
  if (op == ">") return Less(context, b, a);
  if (op == "<=") return !Less(context, b, a);
  return !Less(context, a, b);
}

bool Contains(Context& context, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) {
        context.Fail("'in <string>' requires string as left operand, not {}", TypeName(item));
        return false;
      }
      context.Charge(container.weight());
      return container.string().find(item.string()) != std::string::npos;
    case Kind::kDict:
      if (!HashIdentity(item).has_value()) context.Fail("unhashable type: '{}'", TypeName(item));
      return container.dict().Find(item) != nullptr;
    default:
      break;
  }
  if (!IsIterable(container)) {
    context.Fail("argument of type '{}' is not iterable", TypeName(container));
    return false;
  }
  const ValueList items = Iterate(context, container);
  context.Charge(container.weight());
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return Equal(other, item); });
}

bool IsIterable(const Value& value) {
  return value.is_sequence() || value.is_string() || value.is(Kind::kDict) ||
         value.is_undefined() || value.is(Kind::kLoop);
}

ValueList Iterate(Context& context, const Value& value) {
  if (value.is_sequence() && !context.Charge(value.items().size() / 8)) return {};
  switch (value.kind()) {
    case Kind::kUndefined:
      return {};
    case Kind::kGenerator: {
      const Sequence& generator = value.sequence();
      if (generator.read) return {};
      generator.read = true;
      if (!generator.lazy_error.empty()) context.Fail("{}", generator.lazy_error);
      return generator.items;
    }
    case Kind::kString: {
      ValueList items;
      const std::string& text = value.string();
      if (!context.Charge(text.size() * 4)) return {};
      const std::vector<size_t> offsets = CharacterOffsets(text);
      for (size_t i = 0; i + 1 < offsets.size(); ++i) {
        items.push_back(Value::String(text.substr(offsets[i], offsets[i + 1] - offsets[i])));
      }
      return items;
    }
    case Kind::kDict: {
      ValueList keys;
      for (const auto& [key, item] : value.dict().entries) keys.push_back(key);
      return keys;
    }
    case Kind::kLoop: {
      // What is left of it.
      const auto loop = value.loop();
      const size_t next = std::min(loop->index + 1, loop->items.size());
      return ValueList(loop->items.begin() + static_cast<ptrdiff_t>(next), loop->items.end());
    }
    default:
      if (value.is_sequence()) return value.items();
      context.Fail("'{}' object is not iterable", TypeName(value));
      return {};
  }
}

std::optional<int64_t> LengthOf(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return Length(value.string());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kLoop:
      return static_cast<int64_t>(value.loop()->items.size());
    case Kind::kGenerator:
      return std::nullopt;
    default:
      if (!value.is_sequence()) return std::nullopt;
      return static_cast<int64_t>(value.items().size());
  }
}

namespace {

// As Jinja's error messages name it.
std::string ObjectName(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
      return "None";
    case Kind::kNamespace:
      return "jinja2.utils.Namespace object";
    case Kind::kLoop:
      return "jinja2.runtime.LoopContext object";
    default:
      return TypeName(value) + " object";
  }
}

Value Missing(const Value& object, std::string_view name) {
  return Value::Undefined(fmt::format("'{}' has no attribute {}", ObjectName(object), Quote(name)));
}

Value MissingItem(const Value& object, const Value& key) {
  if (key.is_string()) return Missing(object, key.string());
  return Value::Undefined(fmt::format("{} has no element {}", ObjectName(object), Repr(key)));
}

Value LoopMethod(const std::shared_ptr<LoopState>& loop, std::string_view name) {
  if (name == "cycle") {
    return Value::Of(Callable{"<bound method LoopContext.cycle>",
                              [loop](Context& context, const Arguments& arguments) {
                                const ValueList& items = arguments.positional;
                                if (items.empty())
                                  return context.Fail("no items for cycling given");
                                return items[loop->index % items.size()];
                              }});
  }
  return Value::Of(Callable{"<bound method LoopContext.changed>",
                            [loop](Context& context, const Arguments& arguments) {
                              Value now = context.NewList(arguments.positional, Kind::kTuple);
                              if (loop->last_changed && Equal(*loop->last_changed, now)) {
                                return Value::Bool(false);
                              }
                              loop->last_changed = std::move(now);
                              return Value::Bool(true);
                            }});
}

std::optional<Value> LoopAttribute(const Value& value, std::string_view name) {
  const std::shared_ptr<LoopState> loop = value.loop();
  const auto index = static_cast<int64_t>(loop->index);
  const auto count = static_cast<int64_t>(loop->items.size());
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(count - index);
  if (name == "revindex0") return Value::Int(count - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 >= count);
  if (name == "length") return Value::Int(count);
  if (name == "depth") return Value::Int(loop->depth + 1);
  if (name == "depth0") return Value::Int(loop->depth);
  if (name == "previtem") {
    if (index == 0) return Value::Undefined("there is no previous item");
    return loop->items[loop->index - 1];
  }
  if (name == "nextitem") {
    if (index + 1 >= count) return Value::Undefined("there is no next item");
    return loop->items[loop->index + 1];
  }
  if (name == "cycle" || name == "changed") return LoopMethod(loop, name);
  return std::nullopt;
}

// What Python's getattr finds.
std::optional<Value> PythonAttribute(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kNamespace:
      if (const Value* value = object.space()->Find(name); value != nullptr) return *value;
      return std::nullopt;
    case Kind::kLoop:
      return LoopAttribute(object, name);
    case Kind::kCallable:
      for (const auto& [key, value] : object.callable().attributes) {
        if (key == name) return value;
      }
      return std::nullopt;
    default:
      return FindMethod(object, name);
  }
}

std::optional<int64_t> IndexIn(const Value& key, int64_t length) {
  int64_t index = key.integer();
  if (index < 0) index += length;
  if (index < 0 || index >= length) return std::nullopt;
  return index;
}

// object[key] as Python does it; nullopt where it raises.
std::optional<Value> PythonItem(const Value& object, const Value& key) {
  if (object.is(Kind::kDict)) {
    const Value* value = object.dict().Find(key);
    return value == nullptr ? std::nullopt : std::optional<Value>(*value);
  }
  if (!key.is_integer()) return std::nullopt;
  if (object.is(Kind::kList) || object.is(Kind::kTuple) || object.is(Kind::kRange)) {
    const auto index = IndexIn(key, static_cast<int64_t>(object.items().size()));
    return index ? std::optional<Value>(object.items()[*index]) : std::nullopt;
  }
  if (object.is_string()) {
    const std::vector<size_t> offsets = CharacterOffsets(object.string());
    const auto index = IndexIn(key, static_cast<int64_t>(offsets.size()) - 1);
    if (!index.has_value()) return std::nullopt;
    return Value::String(
        object.string().substr(offsets[*index], offsets[*index + 1] - offsets[*index]));
  }
  return std::nullopt;
}

// The indices that a slice of `length` items takes, in order.
std::optional<std::vector<int64_t>> SliceIndices(Context& context, int64_t length,
                                                 const Value& start, const Value& stop,
                                                 const Value& step) {
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_integer()) {
      if (bound->is_undefined()) {
        context.Fail("{}", bound->undefined_message());
      } else {
        context.Fail("slice indices must be integers or None or have an __index__ method");
      }
      return std::nullopt;
    }
  }
  const int64_t stride = step.is_none() ? 1 : step.integer();
  if (stride == 0) {
    context.Fail("slice step cannot be zero");
    return std::nullopt;
  }
  const int64_t lowest = stride > 0 ? 0 : -1;
  const int64_t highest = stride > 0 ? length : length - 1;
  const auto clamp = [&](const Value& bound, int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    const int64_t at = bound.integer() < 0 ? bound.integer() + length : bound.integer();
    return std::clamp(at, lowest, highest);
  };
  const int64_t first = clamp(start, stride > 0 ? lowest : highest);
  const int64_t last = clamp(stop, stride > 0 ? highest : lowest);
  std::vector<int64_t> indices;
  for (int64_t i = first; stride > 0 ? i < last : i > last;) {
    indices.push_back(i);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  return indices;
}

}  // namespace

Value GetAttribute(Context& context, const Value& object, std::string_view name) {
  if (object.is_undefined()) return context.Fail("{}", object.undefined_message());
  if (std::optional<Value> value = PythonAttribute(object, name); value.has_value()) {
    return *std::move(value);
  }
  if (object.is(Kind::kDict)) {
    if (const Value* value = object.dict().Find(name); value != nullptr) return *value;
  }
  return Missing(object, name);
}

Value GetItem(Context& context, const Value& object, const Value& key) {
  if (object.is_undefined()) return context.Fail("{}", object.undefined_message());
  if (std::optional<Value> value = PythonItem(object, key); value.has_value()) {
    if (object.is_string()) context.Charge(object.weight());
    return *std::move(value);
  }
  if (key.is_string()) {
    if (auto value = PythonAttribute(object, key.string()); value.has_value()) {
      return *std::move(value);
    }
  }
  return MissingItem(object, key);
}

Value GetSlice(Context& context, const Value& object, const Value& start, const Value& stop,
               const Value& step) {
  if (object.is_undefined()) return context.Fail("{}", object.undefined_message());
  if (object.is_string()) {
    const std::string& text = object.string();
    const std::vector<size_t> offsets = CharacterOffsets(text);
    const auto indices =
        SliceIndices(context, static_cast<int64_t>(offsets.size()) - 1, start, stop, step);
    if (!indices.has_value()) return {};
    std::string out;
    for (int64_t i : *indices) out.append(text, offsets[i], offsets[i + 1] - offsets[i]);
    return context.NewString(std::move(out));
  }
  if (object.is(Kind::kList) || object.is(Kind::kTuple) || object.is(Kind::kRange)) {
    const ValueList& items = object.items();
    const auto indices =
        SliceIndices(context, static_cast<int64_t>(items.size()), start, stop, step);
    if (!indices.has_value()) return {};
    ValueList out;
    for (int64_t i : *indices) out.push_back(items[i]);
    return context.NewList(std::move(out), object.is(Kind::kTuple) ? Kind::kTuple : Kind::kList);
  }
  if (object.is(Kind::kDict)) return context.Fail("unhashable type: 'slice'");
  return context.Fail("'{}' object is not subscriptable", TypeName(object));
}

Value Call(Context& context, const Value& function, const Arguments& arguments) {
  if (function.is(Kind::kCallable)) return function.callable().call(context, arguments);
  if (function.is_undefined()) return context.Fail("{}", function.undefined_message());
  if (function.is(Kind::kLoop)) {
    if (function.loop()->recurse == nullptr) {
      return context.Fail("The loop must have the 'recursive' marker to be called recursively.");
    }
    return function.loop()->recurse(
        context, arguments.positional.empty() ? Value() : arguments.positional[0]);
  }
  return context.Fail("'{}' object is not callable", TypeName(function));
}

}  // namespace hostler::jinja
