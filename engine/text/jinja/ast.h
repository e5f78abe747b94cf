// The syntax tree of a template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace hostler::jinja {

enum class ExprKind : uint8_t {
  kConstant,     // value
  kName,         // name
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value, ...
  kGetAttr,      // children[0].name
  kGetItem,      // children[0][children[1]]
  kSlice,        // children[0][a:b:c]; children 1..3, null where left out
  kCall,         // children[0](arguments)
  kFilter,       // children[0] | name(arguments); children[0] null: a block's text
  kTest,         // children[0] is name(arguments)
  kConditional,  // children: value, condition, otherwise (null: undefined)
  kNot,
  kNegate,
  kPlus,
  kAnd,
  kOr,
  kConcat,   // children, joined by ~
  kBinary,   // children[0] name children[1], an arithmetic operator
  kCompare,  // children[0] operators[0] children[1] operators[1] children[2] ...
  kTarget,   // namespace attribute to assign to: name . operators[0]
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr unpack_list;  // *args; may be null
  ExprPtr unpack_dict;  // **kwargs; may be null
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  int line = 0;
  std::string name;
  Value value;
  std::vector<std::string> operators;
  std::vector<ExprPtr> children;
  CallArguments arguments;
};

enum class StmtKind : uint8_t {
  kText,       // text
  kOutput,     // expr
  kIf,         // branches; body of the first that holds
  kFor,        // for target in expr if condition: body else otherwise
  kSet,        // target = expr
  kSetBlock,   // target = body (through expr, a filter, if not null)
  kMacro,      // name(parameters): body
  kCallBlock,  // expr (a call) with caller(parameters): body
  kFilter,     // body through expr
  kWith,       // assignments; body in a scope of its own
  kScope,      // body in a scope of its own
  kBreak,
  kContinue,
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct Parameter {
  std::string name;
  ExprPtr otherwise;  // null: none
};

struct Branch {
  ExprPtr condition;  // null: else
  Body body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  std::string text;  // or a name
  ExprPtr target;
  ExprPtr expr;
  ExprPtr condition;
  bool recursive = false;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  // Of a macro: whether its body speaks of `varargs`, `kwargs`, `caller`.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  Body body;
  Body otherwise;
};

}  // namespace hostler::jinja
