// Jinja's tests: "value is name".
#include <utility>

#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {
namespace {

using Test = bool (*)(Context&, const Value&, const Arguments&);

template <Kind kKind>
bool IsKind(Context&, const Value& value, const Arguments&) {
  return value.is(kKind);
}

// The one argument that a comparison needs.
const Value& Operand(Context& context, const Arguments& arguments) {
  static const Value undefined{};
  if (!arguments.positional.empty()) return arguments.positional[0];
  if (!arguments.named.empty()) return arguments.named[0].second;
  context.Fail("the test needs an argument");
  return undefined;
}

// An operator with `name` spelt as an index, because a template parameter
// cannot be a string.
constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">=", "in"};

template <int kOperator>
bool Compares(Context& context, const Value& value, const Arguments& arguments) {
  return Compare(context, kOperators[kOperator], value, Operand(context, arguments));
}

bool Divides(Context& context, const Value& value, const Value& divisor, int64_t rest) {
  return Equal(Arithmetic(context, "%", value, divisor), Value::Int(rest));
}

bool IsMapping(Context&, const Value& value, const Arguments&) { return value.is(Kind::kDict); }

bool IsSequence(Context&, const Value& value, const Arguments&) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kDict:
      return true;
    default:
      return false;
  }
}

bool IsTrue(Context&, const Value& value, const Arguments&) {
  return value.is(Kind::kBool) && value.boolean();
}
bool IsFalse(Context&, const Value& value, const Arguments&) {
  return value.is(Kind::kBool) && !value.boolean();
}

constexpr std::pair<std::string_view, Test> kTests[] = {
    {"==", Compares<0>},
    {"eq", Compares<0>},
    {"equalto", Compares<0>},
    {"!=", Compares<1>},
    {"ne", Compares<1>},
    {"<", Compares<2>},
    {"lt", Compares<2>},
    {"lessthan", Compares<2>},
    {"<=", Compares<3>},
    {"le", Compares<3>},
    {">", Compares<4>},
    {"gt", Compares<4>},
    {"greaterthan", Compares<4>},
    {">=", Compares<5>},
    {"ge", Compares<5>},
    {"in", Compares<6>},
    {"boolean", IsKind<Kind::kBool>},
    {"callable",
     [](Context&, const Value& value, const Arguments&) {
       // Undefined has a __call__ that raises.
       return value.is(Kind::kCallable) || value.is_undefined() || value.is(Kind::kLoop);
     }},
    {"defined",
     [](Context&, const Value& value, const Arguments&) { return !value.is_undefined(); }},
    {"divisibleby",
     [](Context& context, const Value& value, const Arguments& arguments) {
       return Divides(context, value, Operand(context, arguments), 0);
     }},
    {"escaped", [](Context&, const Value&, const Arguments&) { return false; }},
    {"even", [](Context& context, const Value& value,
                const Arguments&) { return Divides(context, value, Value::Int(2), 0); }},
    {"false", IsFalse},
    {"filter", [](Context&, const Value& value,
                  const Arguments&) { return value.is_string() && HasFilter(value.string()); }},
    {"float", IsKind<Kind::kFloat>},
    {"integer", IsKind<Kind::kInt>},
    {"iterable", [](Context&, const Value& value, const Arguments&) { return IsIterable(value); }},
    {"lower", [](Context&, const Value& value,
                 const Arguments&) { return HasClass(Str(value), "islower"); }},
    {"mapping", IsMapping},
    {"none", IsKind<Kind::kNone>},
    {"number", [](Context&, const Value& value, const Arguments&) { return value.is_number(); }},
    {"odd", [](Context& context, const Value& value,
               const Arguments&) { return Divides(context, value, Value::Int(2), 1); }},
    {"sameas",
     [](Context& context, const Value& value, const Arguments& arguments) {
       return value.SameAs(Operand(context, arguments));
     }},
    {"sequence", IsSequence},
    {"string", IsKind<Kind::kString>},
    {"test", [](Context&, const Value& value,
                const Arguments&) { return value.is_string() && HasTest(value.string()); }},
    {"true", IsTrue},
    {"undefined", IsKind<Kind::kUndefined>},
    {"upper", [](Context&, const Value& value,
                 const Arguments&) { return HasClass(Str(value), "isupper"); }},
};

Test Find(std::string_view name) {
  for (const auto& [known, test] : kTests) {
    if (known == name) return test;
  }
  return nullptr;
}

}  // namespace

bool ApplyTest(Context& context, std::string_view name, const Value& input,
               const Arguments& arguments) {
  const Test test = Find(name);
  context.Charge(input.is_string() ? input.weight() : 1);
  if (test == nullptr) {
    context.Fail("No test named '{}'.", name);
    return false;
  }
  return test(context, input, arguments);
}

bool HasTest(std::string_view name) { return Find(name) != nullptr; }

}  // namespace hostler::jinja
