// The interpreter's expressions.
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {

Value Interpreter::Evaluate(const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) return expr.value;
  const DepthGuard guard(&context_);
  if (!guard.ok() || !context_.Charge(1)) return {};
  context_.set_line(expr.line);
  return EvaluateKind(expr);
}

Value Interpreter::EvaluateKind(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
    case ExprKind::kTarget:
      return expr.value;
    case ExprKind::kName:
      return EvaluateName(expr);
    case ExprKind::kList:
      return context_.NewList(EvaluateAll(expr.children));
    case ExprKind::kTuple:
      return context_.NewList(EvaluateAll(expr.children), Kind::kTuple);
    case ExprKind::kDict:
      return EvaluateDict(expr);
    case ExprKind::kGetAttr:
      return GetAttribute(context_, Evaluate(*expr.children[0]), expr.name);
    case ExprKind::kGetItem: {
      const Value object = Evaluate(*expr.children[0]);
      return GetItem(context_, object, Evaluate(*expr.children[1]));
    }
    case ExprKind::kSlice:
      return EvaluateSlice(expr);
    case ExprKind::kCall:
      return EvaluateCall(expr, nullptr);
    case ExprKind::kFilter:
      return EvaluateFilter(expr, nullptr);
    case ExprKind::kTest:
      return EvaluateTest(expr);
    case ExprKind::kConditional:
      return EvaluateConditional(expr);
    case ExprKind::kNot:
      return Value::Bool(!Truth(Evaluate(*expr.children[0])));
    case ExprKind::kNegate:
      return Negate(context_, Evaluate(*expr.children[0]));
    case ExprKind::kPlus:
      return Arithmetic(context_, "+", Value::Int(0), Evaluate(*expr.children[0]));
    case ExprKind::kAnd: {
      Value left = Evaluate(*expr.children[0]);
      return Truth(left) ? Evaluate(*expr.children[1]) : left;
    }
    case ExprKind::kOr: {
      Value left = Evaluate(*expr.children[0]);
      return Truth(left) ? left : Evaluate(*expr.children[1]);
    }
    case ExprKind::kConcat:
      return EvaluateConcat(expr);
    case ExprKind::kBinary: {
      const Value left = Evaluate(*expr.children[0]);
      return Arithmetic(context_, expr.name, left, Evaluate(*expr.children[1]));
    }
    case ExprKind::kCompare:
      return EvaluateCompare(expr);
  }
  return {};
}

Value Interpreter::EvaluateName(const Expr& expr) {
  if (const Value* value = scopes_.Find(expr.name); value != nullptr) return *value;
  return Value::Undefined(fmt::format("{} is undefined", Quote(expr.name)));
}

ValueList Interpreter::EvaluateAll(const std::vector<ExprPtr>& exprs) {
  ValueList values;
  values.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) values.push_back(Evaluate(*expr));
  return values;
}

Value Interpreter::EvaluateDict(const Expr& expr) {
  Dict dict;
  for (size_t i = 0; i + 1 < expr.children.size(); i += 2) {
    const Value key = Evaluate(*expr.children[i]);
    if (!dict.Set(key, Evaluate(*expr.children[i + 1]))) {
      return context_.Fail("unhashable type: '{}'", TypeName(key));
    }
  }
  return context_.NewDict(std::move(dict));
}

Value Interpreter::EvaluateSlice(const Expr& expr) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    parts[i] = expr.children[i] == nullptr ? Value::None() : Evaluate(*expr.children[i]);
  }
  return GetSlice(context_, parts[0], parts[1], parts[2], parts[3]);
}

Value Interpreter::EvaluateCompare(const Expr& expr) {
  Value left = Evaluate(*expr.children[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = Evaluate(*expr.children[i + 1]);
    if (!Compare(context_, expr.operators[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Interpreter::EvaluateConditional(const Expr& expr) {
  if (Truth(Evaluate(*expr.children[1]))) return Evaluate(*expr.children[0]);
  if (expr.children[2] != nullptr) return Evaluate(*expr.children[2]);
  return Value::Undefined(
      "the inline if-expression evaluated to false and no else section was defined.");
}

Value Interpreter::EvaluateConcat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& part : expr.children) {
    text += Str(Evaluate(*part));
    if (!context_.CheckSize(static_cast<double>(text.size()))) return {};
  }
  return context_.NewString(std::move(text));
}

Value Interpreter::EvaluateTest(const Expr& expr) {
  const Value subject = Evaluate(*expr.children[0]);
  const Arguments arguments = EvaluateArguments(expr.arguments);
  if (context_.failed()) return {};
  context_.set_line(expr.line);
  return Value::Bool(ApplyTest(context_, expr.name, subject, arguments));
}

Value Interpreter::EvaluateFilter(const Expr& expr, const Value* input) {
  const DepthGuard guard(&context_);
  if (!guard.ok()) return {};
  Value subject;
  if (expr.children[0] == nullptr) {
    if (input != nullptr) subject = *input;
  } else if (expr.children[0]->kind == ExprKind::kFilter) {
    subject = EvaluateFilter(*expr.children[0], input);
  } else {
    subject = Evaluate(*expr.children[0]);
  }
  const Arguments arguments = EvaluateArguments(expr.arguments);
  if (context_.failed() || !context_.Charge(1)) return {};
  context_.set_line(expr.line);
  return ApplyFilter(context_, expr.name, subject, arguments);
}

Value Interpreter::EvaluateCall(const Expr& expr, const Value* caller) {
  const Value function = Evaluate(*expr.children[0]);
  Arguments arguments = EvaluateArguments(expr.arguments);
  if (context_.failed()) return {};
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  context_.set_line(expr.line);
  return Call(context_, function, arguments);
}

Arguments Interpreter::EvaluateArguments(const CallArguments& from) {
  Arguments arguments;
  arguments.positional = EvaluateAll(from.positional);
  if (from.unpack_list != nullptr) {
    for (const Value& item : Iterate(context_, Evaluate(*from.unpack_list))) {
      arguments.positional.push_back(item);
    }
  }
  for (const auto& [name, value] : from.named) arguments.named.emplace_back(name, Evaluate(*value));
  if (from.unpack_dict != nullptr) {
    const Value dict = Evaluate(*from.unpack_dict);
    if (!dict.is(Kind::kDict)) {
      context_.Fail("argument after ** must be a mapping, not {}", TypeName(dict));
      return arguments;
    }
    for (const auto& [key, value] : dict.dict().entries) {
      arguments.named.emplace_back(Str(key), value);
    }
  }
  return arguments;
}

}  // namespace hostler::jinja
