#include "engine/text/jinja/interpreter.h"

#include <algorithm>

#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/py_string.h"

namespace hostler::jinja {

Interpreter::Interpreter(Context& context, Variables globals, Variables variables)
    : context_(context), globals_(std::move(globals)), variables_(std::move(variables)) {
  for (const auto& [name, value] : globals_) scopes_.SetGlobal(name, value);
  for (const auto& [name, value] : variables_) scopes_.Set(name, value);
}

std::string Interpreter::Run(const Body& body) {
  std::string out;
  out_ = &out;
  Execute(body);
  return out;
}

void Interpreter::Write(std::string_view text) {
  if (out_->size() + text.size() > context_.limits().output_bytes) {
    context_.Fail("the output is longer than {} bytes", context_.limits().output_bytes);
    return;
  }
  if (context_.Charge(text.size() / 64)) out_->append(text);
}

Interpreter::Flow Interpreter::Execute(const Body& body) {
  const DepthGuard guard(&context_);
  if (!guard.ok()) return Flow::kNext;
  for (const StmtPtr& stmt : body) {
    context_.set_line(stmt->line);
    if (!context_.Charge(1)) break;
    if (const Flow flow = ExecuteStmt(*stmt); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecuteStmt(const Stmt& stmt) {
  switch (stmt.kind) {
    case StmtKind::kText:
      Write(stmt.text);
      return Flow::kNext;
    case StmtKind::kOutput: {
      const Value value = Evaluate(*stmt.expr);
      if (context_.failed()) return Flow::kNext;
      if (value.is_string()) {
        Write(value.string());
      } else {
        Write(Str(value));
      }
      return Flow::kNext;
    }
    case StmtKind::kIf:
      return ExecuteIf(stmt);
    case StmtKind::kFor:
      ExecuteFor(stmt, Evaluate(*stmt.expr), 0, scopes_.Top());
      return Flow::kNext;
    case StmtKind::kSet:
      Assign(*stmt.target, Evaluate(*stmt.expr));
      return Flow::kNext;
    case StmtKind::kSetBlock: {
      Value text = context_.NewString(Capture(stmt.body));
      Assign(*stmt.target, stmt.expr == nullptr ? text : EvaluateFilter(*stmt.expr, &text));
      return Flow::kNext;
    }
    case StmtKind::kMacro:
      scopes_.Set(stmt.text, MakeMacro(stmt, stmt.text));
      return Flow::kNext;
    case StmtKind::kCallBlock:
      ExecuteCallBlock(stmt);
      return Flow::kNext;
    case StmtKind::kFilter: {
      const Value text = context_.NewString(Capture(stmt.body));
      Write(Str(EvaluateFilter(*stmt.expr, &text)));
      return Flow::kNext;
    }
    case StmtKind::kWith:
    case StmtKind::kScope:
      return ExecuteScoped(stmt);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecuteIf(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    const bool taken = branch.condition == nullptr || Truth(Evaluate(*branch.condition));
    if (context_.failed()) return Flow::kNext;
    if (taken) return Execute(branch.body);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecuteScoped(const Stmt& stmt) {
  ValueList values;
  for (const auto& [target, value] : stmt.assignments) values.push_back(Evaluate(*value));
  scopes_.Push(scopes_.Top());
  for (size_t i = 0; i < values.size(); ++i) Assign(*stmt.assignments[i].first, values[i]);
  const Flow flow = Execute(stmt.body);
  scopes_.Pop();
  return flow;
}

std::string Interpreter::Capture(const Body& body) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  scopes_.Push(scopes_.Top());
  Execute(body);
  scopes_.Pop();
  out_ = outer;
  return text;
}

void Interpreter::Assign(const Expr& target, const Value& value) {
  if (context_.failed()) return;
  if (target.kind == ExprKind::kName) {
    scopes_.Set(target.name, value);
    return;
  }
  if (target.kind == ExprKind::kTarget) {
    const Value* space = scopes_.Find(target.name);
    if (space == nullptr || !space->is(Kind::kNamespace)) {
      context_.Fail("cannot assign attribute on non-namespace object");
      return;
    }
    space->space()->Set(target.operators[0], value);
    return;
  }
  if (value.is_undefined()) {
    context_.Fail("{}", value.undefined_message());
    return;
  }
  const ValueList items = Iterate(context_, value);
  const size_t wanted = target.children.size();
  if (items.size() != wanted) {
    context_.Fail("{} values to unpack (expected {}, got {})",
                  items.size() < wanted ? "not enough" : "too many", wanted, items.size());
    return;
  }
  for (size_t i = 0; i < wanted; ++i) Assign(*target.children[i], items[i]);
}

// -- Loops --------------------------------------------------------------------

ValueList Interpreter::FilterItems(const Stmt& stmt, ValueList items, Scopes::Handle scope) {
  if (stmt.condition == nullptr) return items;
  ValueList kept;
  for (const Value& item : items) {
    scopes_.Push(scope);
    Assign(*stmt.target, item);
    if (Truth(Evaluate(*stmt.condition))) kept.push_back(item);
    scopes_.Pop();
    if (context_.failed()) break;
  }
  return kept;
}

Interpreter::Flow Interpreter::ExecuteIterations(const Stmt& stmt,
                                                 const std::shared_ptr<LoopState>& loop,
                                                 Scopes::Handle scope, bool* completed) {
  const Value loop_value = Value::Of(loop);
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    if (!context_.Charge(1)) break;
    scopes_.Push(scope);
    scopes_.Set("loop", loop_value);
    Assign(*stmt.target, loop->items[loop->index]);
    const Flow flow = Execute(stmt.body);
    scopes_.Pop();
    if (flow == Flow::kBreak) return flow;
    *completed = *completed || flow == Flow::kNext;
  }
  return Flow::kNext;
}

void Interpreter::ExecuteFor(const Stmt& stmt, const Value& iterable, int depth,
                             Scopes::Handle scope) {
  if (context_.failed()) return;
  const auto loop = std::make_shared<LoopState>();
  loop->items = FilterItems(stmt, Iterate(context_, iterable), scope);
  loop->depth = depth;
  if (stmt.recursive) {
    loop->recurse = [this, &stmt, depth, scope](Context&, const Value& items) {
      std::string text;
      std::string* const outer = std::exchange(out_, &text);
      const DepthGuard guard(&context_);
      if (guard.ok()) ExecuteFor(stmt, items, depth + 1, scope);
      out_ = outer;
      return context_.NewString(std::move(text));
    };
  }
  bool completed = false;
  ExecuteIterations(stmt, loop, scope, &completed);
  loop->last_changed.reset();  // it may hold the loop itself
  if (!completed && !stmt.otherwise.empty() && !context_.failed()) {
    scopes_.Push(scope);
    Execute(stmt.otherwise);
    scopes_.Pop();
  }
}

// -- Macros -------------------------------------------------------------------

Value Interpreter::MakeMacro(const Stmt& stmt, std::string name) {
  context_.Charge(8);
  ValueList parameters;
  for (const Parameter& parameter : stmt.parameters) {
    parameters.push_back(Value::String(parameter.name));
  }
  std::string repr = name.empty() ? "<Macro anonymous>" : fmt::format("<Macro {}>", Quote(name));
  return Value::Of(Callable{
      .name = std::move(repr),
      .call = [this, macro = Macro{&stmt, scopes_.Top()}, name](
                  Context&,
                  const Arguments& arguments) { return CallMacro(macro, name, arguments); },
      .attributes = {{"name", name.empty() ? Value::None() : Value::String(name)},
                     {"arguments", Value::List(std::move(parameters), Kind::kTuple)},
                     {"catch_kwargs", Value::Bool(stmt.uses_kwargs)},
                     {"catch_varargs", Value::Bool(stmt.uses_varargs)},
                     {"caller", Value::Bool(stmt.uses_caller)}}});
}

Value Interpreter::CallMacro(const Macro& macro, const std::string& name,
                             const Arguments& arguments) {
  const DepthGuard guard(&context_);
  if (!guard.ok()) return {};
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  scopes_.Push(macro.scope);
  BindParameters(*macro.stmt, name, arguments);
  if (!context_.failed()) Execute(macro.stmt->body);
  scopes_.Pop();
  out_ = outer;
  return context_.NewString(std::move(text));
}

void Interpreter::BindParameters(const Stmt& stmt, const std::string& name,
                                 const Arguments& arguments) {
  const size_t count = stmt.parameters.size();
  auto named = arguments.named;
  const auto take = [&](std::string_view key) -> std::optional<Value> {
    const auto it = std::find_if(named.begin(), named.end(),
                                 [&](const auto& argument) { return argument.first == key; });
    if (it == named.end()) return std::nullopt;
    Value value = std::move(it->second);
    named.erase(it);
    return value;
  };
  // Defaults see all the parameters, but not the names outside that those hide.
  bool has_caller = false;
  std::vector<const Parameter*> missing;
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = stmt.parameters[i];
    has_caller = has_caller || parameter.name == "caller";
    std::optional<Value> value =
        i < arguments.positional.size() ? arguments.positional[i] : take(parameter.name);
    if (!value.has_value()) {
      value = Value::Undefined(fmt::format("parameter {} was not provided", Quote(parameter.name)));
      missing.push_back(&parameter);
    }
    scopes_.Set(parameter.name, *value);
  }
  for (const Parameter* parameter : missing) {
    if (parameter->otherwise == nullptr) continue;
    scopes_.Set(parameter->name, Evaluate(*parameter->otherwise));
  }
  if (stmt.uses_caller && !has_caller) {
    const std::optional<Value> caller = take("caller");
    scopes_.Set("caller", caller.value_or(Value::Undefined("No caller defined")));
  }
  if (stmt.uses_kwargs) {
    Dict rest;
    for (const auto& [key, value] : named) rest.Set(Value::String(key), value);
    scopes_.Set("kwargs", context_.NewDict(std::move(rest)));
  } else if (!named.empty()) {
    context_.Fail("macro {} takes no keyword argument {}", Quote(name), Quote(named[0].first));
  }
  const ValueList& positional = arguments.positional;
  if (stmt.uses_varargs) {
    const auto first =
        positional.begin() + static_cast<ptrdiff_t>(std::min(count, positional.size()));
    scopes_.Set("varargs", context_.NewList(ValueList(first, positional.end()), Kind::kTuple));
  } else if (positional.size() > count) {
    context_.Fail("macro {} takes not more than {} argument(s)", Quote(name), count);
  }
}

void Interpreter::ExecuteCallBlock(const Stmt& stmt) {
  const Value caller = MakeMacro(stmt, "caller");
  const Value text = EvaluateCall(*stmt.expr, &caller);
  if (!context_.failed()) Write(Str(text));
}

}  // namespace hostler::jinja
