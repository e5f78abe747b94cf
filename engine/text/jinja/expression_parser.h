// ExpressionParser: the part of the parser that reads expressions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/lexer.h"

namespace hostler::jinja {

// Reads from a list of tokens; the base of the statement parser.
class ExpressionParser {
 protected:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // -- Tokens -----------------------------------------------------------------

  const Token& Current() const { return tokens_[position_]; }
  const Token& Ahead() const;
  void Next();
  size_t position() const { return position_; }

  bool AtOperator(std::string_view op) const;
  bool AtName(std::string_view name) const;
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  absl::Status Expect(TokenType type, std::string_view what);
  absl::Status ExpectOperator(std::string_view op);
  absl::Status ExpectName(std::string_view name);
  absl::StatusOr<std::string> TakeName();
  // Whether a token from `begin` up to here is that name.
  bool SpeaksOf(std::string_view name, size_t begin) const;

  absl::Status Error(std::string_view message) const;
  StmtPtr NewStmt(StmtKind kind) const;
  ExprPtr NewExpr(ExprKind kind) const;
  // One level deeper (the caller undoes it); an error when it is too deep.
  absl::Status Deepen();

  // -- Expressions ------------------------------------------------------------

  struct TupleStyle {
    bool conditional = true;         // "a if b else c" is allowed
    bool parenthesized = false;      // "()" is
    std::string_view end_name = {};  // a name that ends it
  };
  struct TargetStyle {
    std::string_view end_name = {};
    bool namespaces = false;  // "ns.attribute" is allowed
  };

  absl::StatusOr<ExprPtr> ParseExpression();
  // One expression, or several with commas between as a tuple.
  absl::StatusOr<ExprPtr> ParseTuple(const TupleStyle& style);
  absl::StatusOr<ExprPtr> ParseTarget(const TargetStyle& style);
  // "| a | b(c)"; `first_named`: the first "|" is missing.
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input, bool first_named);

  int depth_ = 0;

 private:
  using Result = absl::StatusOr<ExprPtr>;

  Result ParseOr();
  Result ParseAnd();
  Result ParseNot();
  Result ParseCompare();
  Result ParseSum();
  Result ParseConcat();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filters);
  Result ParsePrimary();
  Result ParseNameOrConstant();
  Result ParseListItems();
  Result ParseDictItems();
  Result ParsePostfix(ExprPtr expr);
  Result ParseAfterPostfix(ExprPtr expr);
  Result ParseSubscript(ExprPtr expr);
  absl::Status ParseSubscripted(Expr* item);
  Result ParseCall(ExprPtr expr);
  Result ParseTest(ExprPtr expr);
  Result ParseTargetItem(bool namespaces);
  absl::Status ParseArguments(CallArguments* arguments);
  bool AtTupleEnd(std::string_view end_name) const;
  // `operators` between operands of the next level, joined from the left.
  Result ParseBinary(Result (ExpressionParser::*operand)(),
                     std::initializer_list<std::string_view> operators);
  Result Join(ExprKind kind, std::string_view op, ExprPtr left, ExprPtr right, int* links);

  std::vector<Token> tokens_;
  size_t position_ = 0;
};

}  // namespace hostler::jinja
