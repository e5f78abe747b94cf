#include "engine/text/jinja/expression_parser.h"

#include <algorithm>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler::jinja {
namespace {

constexpr int kMaxDepth = 150;   // of nesting; each level takes a dozen calls
constexpr int kMaxLinks = 1000;  // of "a + b + c": the tree is as deep

std::string Describe(const Token& token) {
  switch (token.type) {
    case TokenType::kEnd:
      return "end of template";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kBlockEnd:
      return "end of statement block";
    default:
      return token.text;
  }
}

}  // namespace

// -- Tokens -------------------------------------------------------------------

const Token& ExpressionParser::Ahead() const {
  return tokens_[std::min(position_ + 1, tokens_.size() - 1)];
}

void ExpressionParser::Next() {
  if (position_ + 1 < tokens_.size()) ++position_;
}

bool ExpressionParser::AtOperator(std::string_view op) const {
  return Current().type == TokenType::kOperator && Current().text == op;
}

bool ExpressionParser::AtName(std::string_view name) const {
  return Current().type == TokenType::kName && Current().text == name;
}

bool ExpressionParser::SkipOperator(std::string_view op) {
  const bool here = AtOperator(op);
  if (here) Next();
  return here;
}

bool ExpressionParser::SkipName(std::string_view name) {
  const bool here = AtName(name);
  if (here) Next();
  return here;
}

absl::Status ExpressionParser::Expect(TokenType type, std::string_view what) {
  if (Current().type != type) {
    return Error(fmt::format("expected {}, got '{}'", what, Describe(Current())));
  }
  Next();
  return absl::OkStatus();
}

absl::Status ExpressionParser::ExpectOperator(std::string_view op) {
  if (SkipOperator(op)) return absl::OkStatus();
  return Error(fmt::format("expected '{}', got '{}'", op, Describe(Current())));
}

absl::Status ExpressionParser::ExpectName(std::string_view name) {
  if (SkipName(name)) return absl::OkStatus();
  return Error(fmt::format("expected '{}', got '{}'", name, Describe(Current())));
}

absl::StatusOr<std::string> ExpressionParser::TakeName() {
  std::string name = Current().text;
  HOSTLER_RETURN_IF_ERROR(Expect(TokenType::kName, "a name"));
  return name;
}

bool ExpressionParser::SpeaksOf(std::string_view name, size_t begin) const {
  return std::any_of(tokens_.begin() + static_cast<ptrdiff_t>(begin),
                     tokens_.begin() + static_cast<ptrdiff_t>(position_), [&](const Token& token) {
                       return token.type == TokenType::kName && token.text == name;
                     });
}

absl::Status ExpressionParser::Error(std::string_view message) const {
  return absl::InvalidArgumentError(
      fmt::format("chat template, line {}: {}", Current().line, message));
}

StmtPtr ExpressionParser::NewStmt(StmtKind kind) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = Current().line;
  return stmt;
}

ExprPtr ExpressionParser::NewExpr(ExprKind kind) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Current().line;
  return expr;
}

absl::Status ExpressionParser::Deepen() {
  if (++depth_ > kMaxDepth) return Error("nested too deep");
  return absl::OkStatus();
}

// -- Operators, from the loosest ----------------------------------------------

absl::StatusOr<ExprPtr> ExpressionParser::Join(ExprKind kind, std::string_view op, ExprPtr left,
                                               ExprPtr right, int* links) {
  if (++*links > kMaxLinks) return Error("expression too long");
  ExprPtr expr = NewExpr(kind);
  expr->name = op;
  expr->children.push_back(std::move(left));
  if (right != nullptr) expr->children.push_back(std::move(right));
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseExpression() {
  HOSTLER_RETURN_IF_ERROR(Deepen());
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr value, ParseOr());
  int links = 0;
  while (SkipName("if")) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (SkipName("else")) {
      HOSTLER_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    HOSTLER_ASSIGN_OR_RETURN(
        value, Join(ExprKind::kConditional, "", std::move(value), std::move(condition), &links));
    value->children.push_back(std::move(otherwise));
  }
  --depth_;
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  for (int links = 0; SkipName("or");) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    HOSTLER_ASSIGN_OR_RETURN(left,
                             Join(ExprKind::kOr, "or", std::move(left), std::move(right), &links));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  for (int links = 0; SkipName("and");) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    HOSTLER_ASSIGN_OR_RETURN(
        left, Join(ExprKind::kAnd, "and", std::move(left), std::move(right), &links));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  if (!AtName("not")) return ParseCompare();
  HOSTLER_RETURN_IF_ERROR(Deepen());
  ExprPtr expr = NewExpr(ExprKind::kNot);
  Next();
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  expr->children.push_back(std::move(operand));
  --depth_;
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCompare() {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  ExprPtr compare;
  while (true) {
    std::string op;
    static constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
    const bool is_operator = Current().type == TokenType::kOperator;
    if (is_operator && std::count(std::begin(kComparisons), std::end(kComparisons),
                                  std::string_view(Current().text)) > 0) {
      op = Current().text;
    } else if (AtName("in")) {
      op = "in";
    } else if (AtName("not") && Ahead().type == TokenType::kName && Ahead().text == "in") {
      Next();
      op = "not in";
    } else {
      break;
    }
    if (compare == nullptr) {
      compare = NewExpr(ExprKind::kCompare);
      compare->children.push_back(std::move(first));
    }
    Next();
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr operand, ParseSum());
    compare->operators.push_back(std::move(op));
    compare->children.push_back(std::move(operand));
  }
  return compare == nullptr ? std::move(first) : std::move(compare);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseBinary(
    Result (ExpressionParser::*operand)(), std::initializer_list<std::string_view> operators) {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  for (int links = 0;;) {
    const auto op = std::find_if(operators.begin(), operators.end(),
                                 [this](std::string_view o) { return AtOperator(o); });
    if (op == operators.end()) return left;
    Next();
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    HOSTLER_ASSIGN_OR_RETURN(
        left, Join(ExprKind::kBinary, *op, std::move(left), std::move(right), &links));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  return ParseBinary(&ExpressionParser::ParseConcat, {"+", "-"});
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!AtOperator("~")) return first;
  ExprPtr concat = NewExpr(ExprKind::kConcat);
  concat->children.push_back(std::move(first));
  while (SkipOperator("~")) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    concat->children.push_back(std::move(next));
  }
  return concat;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  return ParseBinary(&ExpressionParser::ParsePower, {"*", "/", "//", "%"});
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePower() {
  HOSTLER_ASSIGN_OR_RETURN(ExprPtr left, ParseUnary(true));
  for (int links = 0; SkipOperator("**");) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr right, ParseUnary(true));
    HOSTLER_ASSIGN_OR_RETURN(
        left, Join(ExprKind::kBinary, "**", std::move(left), std::move(right), &links));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  ExprPtr expr;
  if (AtOperator("-") || AtOperator("+")) {
    HOSTLER_RETURN_IF_ERROR(Deepen());
    expr = NewExpr(AtOperator("-") ? ExprKind::kNegate : ExprKind::kPlus);
    Next();
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    expr->children.push_back(std::move(operand));
    --depth_;
  } else {
    HOSTLER_ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  HOSTLER_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  if (!with_filters) return expr;
  return ParseAfterPostfix(std::move(expr));
}

// -- Operands -----------------------------------------------------------------

absl::StatusOr<ExprPtr> ExpressionParser::ParseNameOrConstant() {
  ExprPtr expr = NewExpr(ExprKind::kConstant);
  const std::string& name = Current().text;
  if (name == "true" || name == "True") {
    expr->value = Value::Bool(true);
  } else if (name == "false" || name == "False") {
    expr->value = Value::Bool(false);
  } else if (name == "none" || name == "None") {
    expr->value = Value::None();
  } else {
    expr->kind = ExprKind::kName;
    expr->name = name;
  }
  Next();
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  ExprPtr expr = NewExpr(ExprKind::kConstant);
  switch (Current().type) {
    case TokenType::kName:
      return ParseNameOrConstant();
    case TokenType::kString: {
      std::string text;
      for (; Current().type == TokenType::kString; Next()) text += Current().text;
      expr->value = Value::String(std::move(text));
      return expr;
    }
    case TokenType::kInteger:
      expr->value = Value::Int(Current().integer);
      Next();
      return expr;
    case TokenType::kFloat:
      expr->value = Value::Float(Current().real);
      Next();
      return expr;
    default:
      break;
  }
  if (SkipOperator("(")) {
    HOSTLER_ASSIGN_OR_RETURN(expr, ParseTuple({.parenthesized = true}));
    HOSTLER_RETURN_IF_ERROR(ExpectOperator(")"));
    return expr;
  }
  if (SkipOperator("[")) return ParseListItems();
  if (SkipOperator("{")) return ParseDictItems();
  return Error(fmt::format("unexpected '{}'", Describe(Current())));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseListItems() {
  ExprPtr list = NewExpr(ExprKind::kList);
  while (!AtOperator("]")) {
    if (!list->children.empty()) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
    if (AtOperator("]")) break;
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    list->children.push_back(std::move(item));
  }
  Next();
  return list;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDictItems() {
  ExprPtr dict = NewExpr(ExprKind::kDict);
  while (!AtOperator("}")) {
    if (!dict->children.empty()) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
    if (AtOperator("}")) break;
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    HOSTLER_RETURN_IF_ERROR(ExpectOperator(":"));
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    dict->children.push_back(std::move(key));
    dict->children.push_back(std::move(value));
  }
  Next();
  return dict;
}

bool ExpressionParser::AtTupleEnd(std::string_view end_name) const {
  const TokenType type = Current().type;
  return type == TokenType::kVariableEnd || type == TokenType::kBlockEnd || AtOperator(")") ||
         (!end_name.empty() && AtName(end_name));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(const TupleStyle& style) {
  ExprPtr tuple = NewExpr(ExprKind::kTuple);
  bool is_tuple = false;
  while (true) {
    if (!tuple->children.empty()) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
    if (AtTupleEnd(style.end_name)) break;
    ExprPtr item;
    if (style.conditional) {
      HOSTLER_ASSIGN_OR_RETURN(item, ParseExpression());
    } else {
      HOSTLER_ASSIGN_OR_RETURN(item, ParseOr());
    }
    tuple->children.push_back(std::move(item));
    if (!AtOperator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->children.empty()) return std::move(tuple->children[0]);
  if (style.parenthesized) return tuple;
  return Error(fmt::format("Expected an expression, got '{}'", Describe(Current())));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr expr) {
  for (int links = 0; AtOperator(".") || AtOperator("[") || AtOperator("(");) {
    if (++links > kMaxLinks) return Error("expression too long");
    if (AtOperator("(")) {
      HOSTLER_ASSIGN_OR_RETURN(expr, ParseCall(std::move(expr)));
    } else {
      HOSTLER_ASSIGN_OR_RETURN(expr, ParseSubscript(std::move(expr)));
    }
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAfterPostfix(ExprPtr expr) {
  for (int links = 0;;) {
    if (++links > kMaxLinks) return Error("expression too long");
    if (AtOperator("|")) {
      HOSTLER_ASSIGN_OR_RETURN(expr, ParseFilters(std::move(expr), /*first_named=*/false));
    } else if (AtName("is")) {
      HOSTLER_ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else if (AtOperator("(")) {
      HOSTLER_ASSIGN_OR_RETURN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr expr) {
  ExprPtr item = NewExpr(ExprKind::kGetItem);
  item->children.push_back(std::move(expr));
  if (SkipOperator(".")) {
    if (Current().type == TokenType::kName) {
      item->kind = ExprKind::kGetAttr;
      item->name = Current().text;
    } else if (Current().type == TokenType::kInteger) {
      item->children.push_back(NewExpr(ExprKind::kConstant));
      item->children.back()->value = Value::Int(Current().integer);
    } else {
      return Error("expected name or number");
    }
    Next();
    return item;
  }
  Next();  // [
  HOSTLER_RETURN_IF_ERROR(ParseSubscripted(item.get()));
  if (!AtOperator(",")) {
    HOSTLER_RETURN_IF_ERROR(ExpectOperator("]"));
    return item;
  }
  // a[1, 2]: the subscript is a tuple.
  ExprPtr tuple = NewExpr(ExprKind::kTuple);
  if (item->kind == ExprKind::kSlice) return Error("slices in a tuple are not supported");
  tuple->children.push_back(std::move(item->children[1]));
  while (SkipOperator(",")) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr next, ParseExpression());
    tuple->children.push_back(std::move(next));
  }
  item->children[1] = std::move(tuple);
  HOSTLER_RETURN_IF_ERROR(ExpectOperator("]"));
  return item;
}

// What is between the brackets: an expression, or a slice.
absl::Status ExpressionParser::ParseSubscripted(Expr* item) {
  ExprPtr first;
  if (!AtOperator(":")) {
    HOSTLER_ASSIGN_OR_RETURN(first, ParseExpression());
    if (!AtOperator(":")) {
      item->children.push_back(std::move(first));
      return absl::OkStatus();
    }
  }
  item->kind = ExprKind::kSlice;
  item->children.push_back(std::move(first));
  while (SkipOperator(":")) {
    if (item->children.size() > 3) return Error("too many ':' in a slice");
    ExprPtr part;
    if (!AtOperator(":") && !AtOperator("]") && !AtOperator(",")) {
      HOSTLER_ASSIGN_OR_RETURN(part, ParseExpression());
    }
    item->children.push_back(std::move(part));
  }
  while (item->children.size() < 4) item->children.emplace_back();
  return absl::OkStatus();
}

absl::Status ExpressionParser::ParseArguments(CallArguments* arguments) {
  HOSTLER_RETURN_IF_ERROR(ExpectOperator("("));
  bool first = true;
  while (!AtOperator(")")) {
    if (!first) {
      HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
      if (AtOperator(")")) break;
    }
    first = false;
    const bool list_or_dict =
        arguments->unpack_list != nullptr || arguments->unpack_dict != nullptr;
    if (AtOperator("*") && !list_or_dict) {
      Next();
      HOSTLER_ASSIGN_OR_RETURN(arguments->unpack_list, ParseExpression());
    } else if (AtOperator("**") && arguments->unpack_dict == nullptr) {
      Next();
      HOSTLER_ASSIGN_OR_RETURN(arguments->unpack_dict, ParseExpression());
    } else if (Current().type == TokenType::kName && Ahead().type == TokenType::kOperator &&
               Ahead().text == "=" && arguments->unpack_dict == nullptr) {
      std::string name = Current().text;
      Next();
      Next();
      HOSTLER_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      arguments->named.emplace_back(std::move(name), std::move(value));
    } else if (!list_or_dict && arguments->named.empty()) {
      HOSTLER_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      arguments->positional.push_back(std::move(value));
    } else {
      return Error("invalid syntax for function call expression");
    }
  }
  Next();
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCall(ExprPtr expr) {
  ExprPtr call = NewExpr(ExprKind::kCall);
  call->children.push_back(std::move(expr));
  HOSTLER_RETURN_IF_ERROR(ParseArguments(&call->arguments));
  return call;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input, bool first_named) {
  for (int links = 0; first_named || SkipOperator("|"); first_named = false) {
    ExprPtr filter = NewExpr(ExprKind::kFilter);
    HOSTLER_ASSIGN_OR_RETURN(filter->name, TakeName());
    while (SkipOperator(".")) {
      HOSTLER_ASSIGN_OR_RETURN(const std::string part, TakeName());
      filter->name += "." + part;
    }
    if (++links > kMaxLinks) return Error("expression too long");
    filter->children.push_back(std::move(input));
    if (AtOperator("(")) HOSTLER_RETURN_IF_ERROR(ParseArguments(&filter->arguments));
    input = std::move(filter);
  }
  return input;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr expr) {
  Next();  // is
  const bool negated = SkipName("not");
  ExprPtr test = NewExpr(ExprKind::kTest);
  HOSTLER_ASSIGN_OR_RETURN(test->name, TakeName());
  while (SkipOperator(".")) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string part, TakeName());
    test->name += "." + part;
  }
  test->children.push_back(std::move(expr));
  const TokenType type = Current().type;
  const bool starts_operand = type == TokenType::kName || type == TokenType::kString ||
                              type == TokenType::kInteger || type == TokenType::kFloat ||
                              AtOperator("[") || AtOperator("{");
  if (AtOperator("(")) {
    HOSTLER_RETURN_IF_ERROR(ParseArguments(&test->arguments));
  } else if (AtName("is")) {
    return Error("You cannot chain multiple tests with is");
  } else if (starts_operand && !AtName("else") && !AtName("or") && !AtName("and")) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr operand, ParsePrimary());
    HOSTLER_ASSIGN_OR_RETURN(operand, ParsePostfix(std::move(operand)));
    test->arguments.positional.push_back(std::move(operand));
  }
  if (!negated) return test;
  ExprPtr inverse = NewExpr(ExprKind::kNot);
  inverse->children.push_back(std::move(test));
  return inverse;
}

// -- Targets ------------------------------------------------------------------

absl::StatusOr<ExprPtr> ExpressionParser::ParseTargetItem(bool namespaces) {
  HOSTLER_RETURN_IF_ERROR(Deepen());
  if (SkipOperator("(")) {
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr target, ParseTarget({.namespaces = namespaces}));
    HOSTLER_RETURN_IF_ERROR(ExpectOperator(")"));
    --depth_;
    return target;
  }
  ExprPtr target = NewExpr(ExprKind::kName);
  HOSTLER_ASSIGN_OR_RETURN(target->name, TakeName());
  for (std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (target->name == constant) return Error("can't assign to 'const'");
  }
  if (namespaces && SkipOperator(".")) {
    target->kind = ExprKind::kTarget;
    HOSTLER_ASSIGN_OR_RETURN(std::string attribute, TakeName());
    target->operators.push_back(std::move(attribute));
  }
  --depth_;
  return target;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTarget(const TargetStyle& style) {
  ExprPtr tuple = NewExpr(ExprKind::kTuple);
  bool is_tuple = false;
  while (true) {
    if (!tuple->children.empty()) {
      if (!SkipOperator(",")) break;
      is_tuple = true;
      if (AtTupleEnd(style.end_name) || AtOperator("=")) break;
    }
    HOSTLER_ASSIGN_OR_RETURN(ExprPtr item, ParseTargetItem(style.namespaces));
    tuple->children.push_back(std::move(item));
  }
  if (is_tuple) return tuple;
  return std::move(tuple->children[0]);
}

}  // namespace hostler::jinja
