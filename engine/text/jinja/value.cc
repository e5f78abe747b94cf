#include "engine/text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"

namespace hostler::jinja {
namespace {

int NestedDepth(const ValueList& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

}  // namespace

Value Value::Undefined(std::string message) {
  Value v;
  v.object_ = std::make_shared<std::string>(std::move(message));
  return v;
}

Value Value::None() {
  Value v;
  v.kind_ = Kind::kNone;
  return v;
}

Value Value::Bool(bool value) {
  Value v;
  v.kind_ = Kind::kBool;
  v.number_.integer = value;
  return v;
}

Value Value::Int(int64_t value) {
  Value v;
  v.kind_ = Kind::kInt;
  v.number_.integer = value;
  return v;
}

Value Value::Float(double value) {
  Value v;
  v.kind_ = Kind::kFloat;
  v.number_.real = value;
  return v;
}

Value Value::String(std::string value) {
  Value v;
  v.kind_ = Kind::kString;
  v.object_ = std::make_shared<std::string>(std::move(value));
  return v;
}

Value Value::List(ValueList items, Kind kind) {
  return Of(Sequence{.items = std::move(items)}, kind);
}

Value Value::Of(Sequence sequence, Kind kind) {
  Value v;
  v.kind_ = kind;
  sequence.depth = NestedDepth(sequence.items);
  sequence.weight = 1;
  for (const Value& item : sequence.items) sequence.weight += item.weight();
  v.object_ = std::make_shared<Sequence>(std::move(sequence));
  return v;
}

Value Value::Of(Dict dict) {
  Value v;
  v.kind_ = Kind::kDict;
  dict.depth = 1;
  dict.weight = 1;
  for (const auto& [key, value] : dict.entries) {
    dict.depth = std::max({dict.depth, key.depth() + 1, value.depth() + 1});
    dict.weight += key.weight() + value.weight();
  }
  v.object_ = std::make_shared<Dict>(std::move(dict));
  return v;
}

Value Value::Of(Namespace* space) {
  Value v;
  v.kind_ = Kind::kNamespace;
  v.object_ = std::shared_ptr<void>(std::shared_ptr<void>(), space);  // not ours to free
  return v;
}

Value Value::Of(std::shared_ptr<LoopState> loop) {
  Value v;
  v.kind_ = Kind::kLoop;
  v.object_ = std::move(loop);
  return v;
}

Value Value::Of(Callable callable) {
  Value v;
  v.kind_ = Kind::kCallable;
  v.object_ = std::make_shared<Callable>(std::move(callable));
  return v;
}

double Value::AsDouble() const {
  return kind_ == Kind::kFloat ? number_.real : static_cast<double>(number_.integer);
}

const ValueList& Value::items() const { return sequence().items; }

const std::string& Value::undefined_message() const {
  static const std::string unknown = "value is undefined";
  return object_ == nullptr ? unknown : *static_cast<const std::string*>(object_.get());
}

bool Value::SameAs(const Value& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return number_.integer == other.number_.integer;
    case Kind::kString:
      // CPython shares short strings; comparing is the nearest to that.
      return object_ == other.object_ || string() == other.string();
    default:
      return object_ == other.object_;
  }
}

int Value::depth() const {
  if (is_sequence()) return sequence().depth;
  if (kind_ == Kind::kDict) return dict().depth;
  return 0;
}

uint64_t Value::weight() const {
  if (is_sequence()) return sequence().weight;
  if (kind_ == Kind::kDict) return dict().weight;
  return kind_ == Kind::kString ? 1 + string().size() / 64 : 1;
}

bool Dict::Set(const Value& key, const Value& value) {
  std::optional<std::string> identity = HashIdentity(key);
  if (!identity.has_value()) return false;
  const auto [it, inserted] = index_.try_emplace(*std::move(identity), entries.size());
  if (inserted) {
    entries.emplace_back(key, value);
  } else {
    entries[it->second].second = value;
  }
  return true;
}

const Value* Dict::Find(const Value& key) const {
  const std::optional<std::string> identity = HashIdentity(key);
  if (!identity.has_value()) return nullptr;
  const auto it = index_.find(*identity);
  return it == index_.end() ? nullptr : &entries[it->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = index_.find("s" + std::string(key));
  return it == index_.end() ? nullptr : &entries[it->second].second;
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::Set(std::string_view name, Value value) {
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  attributes.emplace_back(name, std::move(value));
}

const Value* Arguments::Get(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool Truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.real() != 0;
    case Kind::kString:
      return !value.string().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    case Kind::kLoop:
      return !value.loop()->items.empty();
    case Kind::kGenerator:
    case Kind::kNamespace:
    case Kind::kCallable:
      return true;
  }
  return true;
}

namespace {

bool EqualDicts(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const Value* other = b.Find(entry.first);
    return other != nullptr && Equal(entry.second, *other);
  });
}

bool EqualNumbers(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
  return a.AsDouble() == b.AsDouble();
}

}  // namespace

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return EqualNumbers(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.string() == b.string();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
      return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                        Equal);
    case Kind::kDict:
      return EqualDicts(a.dict(), b.dict());
    default:
      return a.SameAs(b);
  }
}

std::string TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      return value.sequence().view;
    case Kind::kGenerator:
      return "generator";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCallable:
      return "function";
  }
  return "object";
}

std::optional<std::string> HashIdentity(const Value& value) {
  switch (value.kind()) {
    case Kind::kString:
      return "s" + value.string();
    case Kind::kBool:
    case Kind::kInt:
      return fmt::format("i{}", value.integer());
    case Kind::kFloat: {
      const double real = value.real();
      if (real == std::floor(real) && std::fabs(real) < 9e15) {
        return fmt::format("i{}", static_cast<int64_t>(real));
      }
      return fmt::format("f{}", real);
    }
    case Kind::kNone:
      return "n";
    case Kind::kUndefined:
      return "u";
    case Kind::kTuple: {
      std::string identity = "t";
      for (const Value& item : value.items()) {
        const std::optional<std::string> part = HashIdentity(item);
        if (!part.has_value()) return std::nullopt;
        identity += fmt::format("{}:{}", part->size(), *part);
      }
      return identity;
    }
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView:
      return std::nullopt;
    default:
      return fmt::format("o{}", static_cast<const void*>(&value.sequence()));
  }
}

}  // namespace hostler::jinja
