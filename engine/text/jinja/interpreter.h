// Interpreter: a syntax tree and variables → text.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/context.h"
#include "engine/text/jinja/scopes.h"

namespace hostler::jinja {

// For one rendering. The tree and the context must outlive it.
class Interpreter {
 public:
  using Variables = std::vector<std::pair<std::string, Value>>;

  Interpreter(Context& context, Variables globals, Variables variables);

  // What the template prints. Whether it went well, the context knows.
  std::string Run(const Body& body);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  // Macros and the bodies of call blocks: text from arguments.
  struct Macro {
    const Stmt* stmt;
    Scopes::Handle scope;  // where it is defined
  };

  // -- Statements (interpreter.cc) --------------------------------------------

  Flow Execute(const Body& body);
  Flow ExecuteStmt(const Stmt& stmt);
  Flow ExecuteIf(const Stmt& stmt);
  Flow ExecuteScoped(const Stmt& stmt);
  void ExecuteFor(const Stmt& stmt, const Value& iterable, int depth, Scopes::Handle scope);
  Flow ExecuteIterations(const Stmt& stmt, const std::shared_ptr<LoopState>& loop,
                         Scopes::Handle scope, bool* completed);
  ValueList FilterItems(const Stmt& stmt, ValueList items, Scopes::Handle scope);
  void ExecuteCallBlock(const Stmt& stmt);
  void Write(std::string_view text);
  // What `body` prints, in a scope of its own.
  std::string Capture(const Body& body);
  void Assign(const Expr& target, const Value& value);

  Value MakeMacro(const Stmt& stmt, std::string name);
  Value CallMacro(const Macro& macro, const std::string& name, const Arguments& arguments);
  void BindParameters(const Stmt& stmt, const std::string& name, const Arguments& arguments);

  // -- Expressions (expressions.cc) -------------------------------------------

  Value Evaluate(const Expr& expr);
  Value EvaluateKind(const Expr& expr);
  Value EvaluateName(const Expr& expr);
  Value EvaluateDict(const Expr& expr);
  Value EvaluateSlice(const Expr& expr);
  Value EvaluateCompare(const Expr& expr);
  Value EvaluateConditional(const Expr& expr);
  Value EvaluateConcat(const Expr& expr);
  Value EvaluateTest(const Expr& expr);
  // `input` is what the innermost filter of a block's chain works on.
  Value EvaluateFilter(const Expr& expr, const Value* input);
  Value EvaluateCall(const Expr& expr, const Value* caller);
  ValueList EvaluateAll(const std::vector<ExprPtr>& exprs);
  Arguments EvaluateArguments(const CallArguments& arguments);

  Context& context_;
  const Variables globals_;
  const Variables variables_;
  Scopes scopes_;
  std::string* out_ = nullptr;
};

}  // namespace hostler::jinja
