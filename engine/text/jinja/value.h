// Value: what a template computes with; Python's types as far as templates can
// see them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hostler::jinja {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kRange,
  kView,       // dict.keys(), .values(), .items()
  kGenerator,  // what lazy filters return: can be gone through once
  kDict,
  kNamespace,
  kLoop,
  kCallable,
};

class Context;
class Value;
struct Callable;
struct Dict;
struct LoopState;
struct Namespace;
struct Sequence;

using ValueList = std::vector<Value>;

// Immutable (but for namespaces, loops and how far a generator has been read)
// and cheap to copy. Containers nest at most kMaxNesting deep and weigh at most
// kMaxWeight, so that walking and freeing them cannot exhaust stack or time. A value lives no
// longer than the Context that made it.
class Value {
 public:
  Value() = default;  // undefined, without a word why
  static Value Undefined(std::string message);
  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string value);
  // `kind`: kList, kTuple, kRange, kView or kGenerator.
  static Value List(ValueList items, Kind kind = Kind::kList);
  static Value Of(Sequence sequence, Kind kind);
  static Value Of(Dict dict);
  static Value Of(Namespace* space);  // owned by the Context
  static Value Of(std::shared_ptr<LoopState> loop);
  static Value Of(Callable callable);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integer() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integer() || kind_ == Kind::kFloat; }
  bool is_sequence() const { return kind_ >= Kind::kList && kind_ <= Kind::kGenerator; }

  // REQUIRES (all below): the kind.
  bool boolean() const { return number_.integer != 0; }
  int64_t integer() const { return number_.integer; }  // of kBool, too
  double real() const { return number_.real; }
  double AsDouble() const;  // of any number
  const std::string& string() const { return *static_cast<const std::string*>(object_.get()); }
  const Sequence& sequence() const { return *static_cast<const Sequence*>(object_.get()); }
  const ValueList& items() const;  // of a sequence
  const Dict& dict() const { return *static_cast<const Dict*>(object_.get()); }
  Namespace* space() const { return static_cast<Namespace*>(object_.get()); }
  std::shared_ptr<LoopState> loop() const { return std::static_pointer_cast<LoopState>(object_); }
  const Callable& callable() const { return *static_cast<const Callable*>(object_.get()); }
  const std::string& undefined_message() const;

  // Two values that are the same object (Python's `is`).
  bool SameAs(const Value& other) const;

  // How deep containers nest in this one: 0 for anything else.
  int depth() const;

  // How much there is to walk: 1 and more for long text, and for containers
  // the sum over their items, each as often as it is there.
  uint64_t weight() const;

 private:
  Kind kind_ = Kind::kUndefined;
  union {
    int64_t integer = 0;
    double real;
  } number_;
  std::shared_ptr<void> object_;
};

inline constexpr int kMaxNesting = 200;
inline constexpr uint64_t kMaxWeight = 16'000'000;

struct Sequence {
  ValueList items;
  int depth = 1;  // set by Value::Of, as is
  uint64_t weight = 1;
  std::string view = {};        // kView: "dict_keys", ...
  int64_t range[3] = {};        // kRange: start, stop, step
  std::string lazy_error = {};  // kGenerator: what reading it raises
  mutable bool read = false;    // kGenerator
};

// Insertion order; keys are hashable values.
struct Dict {
  // Sets or replaces. False when the key cannot be hashed (a list, a dict).
  bool Set(const Value& key, const Value& value);
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;

  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;  // set by Value::Of, as is
  uint64_t weight = 1;

 private:
  std::unordered_map<std::string, size_t> index_;  // key's identity → entry
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

struct LoopState {
  ValueList items;
  size_t index = 0;
  int depth = 0;
  std::optional<Value> last_changed;
  std::function<Value(Context&, const Value& items)> recurse;  // null: not recursive
};

// The arguments of a call.
struct Arguments {
  ValueList positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `position` or of that name; null if there is neither.
  const Value* Get(size_t position, std::string_view name) const;
};

struct Callable {
  std::string name;  // as repr shows it: "<Macro 'x'>"
  std::function<Value(Context&, const Arguments&)> call;
  // Attributes that templates may read (of macros).
  std::vector<std::pair<std::string, Value>> attributes = {};
};

// Python's truth.
bool Truth(const Value& value);

// Python's ==.
bool Equal(const Value& a, const Value& b);

// Python's type(value).__name__, as in its error messages.
std::string TypeName(const Value& value);

// Equal values have equal identities; nullopt for what cannot be hashed.
std::optional<std::string> HashIdentity(const Value& value);

}  // namespace hostler::jinja
