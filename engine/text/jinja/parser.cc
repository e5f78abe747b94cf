#include "engine/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "engine/base/status.h"
#include "engine/text/jinja/expression_parser.h"
#include "fmt/format.h"

namespace hostler::jinja {
namespace {

// Statements; what stands inside them is ExpressionParser's.
class Parser : private ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    Body body;
    HOSTLER_RETURN_IF_ERROR(ParseBody({}, &body));
    return body;
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  bool AtAnyName(Names names) const {
    return std::any_of(names.begin(), names.end(), [&](auto name) { return AtName(name); });
  }

  // Statements up to a tag that starts with one of `ends`, whose name is left
  // for the caller; without any, up to the end of the template.
  absl::Status ParseBody(Names ends, Body* body) {
    HOSTLER_RETURN_IF_ERROR(Deepen());
    while (true) {
      const Token& token = Current();
      if (token.type == TokenType::kEnd) {
        if (ends.size() == 0) break;
        return Error(fmt::format("Unexpected end of template. Looking for '{}'.", *ends.begin()));
      }
      if (token.type == TokenType::kData) {
        body->push_back(NewStmt(StmtKind::kText));
        body->back()->text = token.text;
        Next();
        continue;
      }
      if (token.type == TokenType::kVariableBegin) {
        Next();
        body->push_back(NewStmt(StmtKind::kOutput));
        HOSTLER_ASSIGN_OR_RETURN(body->back()->expr, ParseTuple({}));
        HOSTLER_RETURN_IF_ERROR(Expect(TokenType::kVariableEnd, "end of print statement"));
        continue;
      }
      Next();  // kBlockBegin
      if (AtAnyName(ends)) break;
      HOSTLER_RETURN_IF_ERROR(ParseStatement(body));
      HOSTLER_RETURN_IF_ERROR(ExpectBlockEnd());
    }
    --depth_;
    return absl::OkStatus();
  }

  absl::Status ExpectBlockEnd() { return Expect(TokenType::kBlockEnd, "end of statement block"); }

  // The rest of an opening tag, the body, and the name of the closing one.
  absl::Status ParseBlock(Names ends, Body* body) {
    SkipOperator(":");
    HOSTLER_RETURN_IF_ERROR(ExpectBlockEnd());
    return ParseBody(ends, body);
  }

  absl::Status ParseWhole(std::string_view end, Body* body) {
    HOSTLER_RETURN_IF_ERROR(ParseBlock({end}, body));
    Next();
    return absl::OkStatus();
  }

  absl::Status ParseStatement(Body* body) {
    if (Current().type != TokenType::kName) return Error("tag name expected");
    const std::string name = Current().text;
    StmtPtr stmt = NewStmt(StmtKind::kScope);
    Next();
    if (name == "print") return ParsePrint(body);
    absl::Status status;
    if (name == "if") {
      status = ParseIf(stmt.get());
    } else if (name == "for") {
      status = ParseFor(stmt.get());
    } else if (name == "set") {
      status = ParseSet(stmt.get());
    } else if (name == "macro") {
      status = ParseMacro(stmt.get());
    } else if (name == "call") {
      status = ParseCallBlock(stmt.get());
    } else if (name == "filter") {
      stmt->kind = StmtKind::kFilter;
      HOSTLER_ASSIGN_OR_RETURN(stmt->expr, ParseFilters(nullptr, /*first_named=*/true));
      status = ParseWhole("endfilter", &stmt->body);
    } else if (name == "with") {
      status = ParseWith(stmt.get());
    } else if (name == "generation") {
      status = ParseWhole("endgeneration", &stmt->body);
    } else if (name == "autoescape") {
      HOSTLER_ASSIGN_OR_RETURN(stmt->expr, ParseExpression());
      status = ParseWhole("endautoescape", &stmt->body);
    } else if (name == "block") {
      status = ParseNamedBlock(stmt.get());
    } else if (name == "break" || name == "continue") {
      status = ParseLoopControl(name, stmt.get());
    } else {
      status = Error(fmt::format("Encountered unknown tag '{}'.", name));
    }
    if (status.ok()) body->push_back(std::move(stmt));
    return status;
  }

  absl::Status ParsePrint(Body* body) {
    while (Current().type != TokenType::kBlockEnd) {
      if (Current().type == TokenType::kOperator) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
      body->push_back(NewStmt(StmtKind::kOutput));
      HOSTLER_ASSIGN_OR_RETURN(body->back()->expr, ParseExpression());
    }
    return absl::OkStatus();
  }

  absl::Status ParseIf(Stmt* stmt) {
    stmt->kind = StmtKind::kIf;
    while (true) {
      Branch& branch = stmt->branches.emplace_back();
      HOSTLER_ASSIGN_OR_RETURN(branch.condition, ParseTuple({.conditional = false}));
      HOSTLER_RETURN_IF_ERROR(ParseBlock({"endif", "elif", "else"}, &branch.body));
      const std::string end = Current().text;
      Next();
      if (end == "elif") continue;
      if (end == "else") {
        HOSTLER_RETURN_IF_ERROR(ParseWhole("endif", &stmt->branches.emplace_back().body));
      }
      return absl::OkStatus();
    }
  }

  absl::Status ParseFor(Stmt* stmt) {
    stmt->kind = StmtKind::kFor;
    HOSTLER_ASSIGN_OR_RETURN(stmt->target, ParseTarget({.end_name = "in"}));
    HOSTLER_RETURN_IF_ERROR(ExpectName("in"));
    HOSTLER_ASSIGN_OR_RETURN(stmt->expr,
                             ParseTuple({.conditional = false, .end_name = "recursive"}));
    if (SkipName("if")) {
      HOSTLER_ASSIGN_OR_RETURN(stmt->condition, ParseExpression());
    }
    stmt->recursive = SkipName("recursive");
    ++loops_;
    HOSTLER_RETURN_IF_ERROR(ParseBlock({"endfor", "else"}, &stmt->body));
    --loops_;
    const bool has_else = Current().text == "else";
    Next();
    if (has_else) HOSTLER_RETURN_IF_ERROR(ParseWhole("endfor", &stmt->otherwise));
    return absl::OkStatus();
  }

  absl::Status ParseSet(Stmt* stmt) {
    HOSTLER_ASSIGN_OR_RETURN(stmt->target, ParseTarget({.namespaces = true}));
    if (SkipOperator("=")) {
      stmt->kind = StmtKind::kSet;
      HOSTLER_ASSIGN_OR_RETURN(stmt->expr, ParseTuple({}));
      return absl::OkStatus();
    }
    stmt->kind = StmtKind::kSetBlock;
    if (AtOperator("|")) {
      HOSTLER_ASSIGN_OR_RETURN(stmt->expr, ParseFilters(nullptr, /*first_named=*/false));
    }
    return ParseWhole("endset", &stmt->body);
  }

  absl::Status ParseParameters(Stmt* stmt) {
    HOSTLER_RETURN_IF_ERROR(ExpectOperator("("));
    while (!AtOperator(")")) {
      if (!stmt->parameters.empty()) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
      Parameter parameter;
      HOSTLER_ASSIGN_OR_RETURN(parameter.name, TakeName());
      if (SkipOperator("=")) {
        HOSTLER_ASSIGN_OR_RETURN(parameter.otherwise, ParseExpression());
      } else if (!stmt->parameters.empty() && stmt->parameters.back().otherwise != nullptr) {
        return Error("non-default argument follows default argument");
      } else if (parameter.name == "caller") {
        return Error("the parameter 'caller' must have a default");
      }
      stmt->parameters.push_back(std::move(parameter));
    }
    Next();
    return absl::OkStatus();
  }

  // The body of a macro or call block: loops outside of it cannot be left from
  // inside.
  absl::Status ParseMacroBody(std::string_view end, Stmt* stmt) {
    const int loops = std::exchange(loops_, 0);
    const size_t begin = position();
    HOSTLER_RETURN_IF_ERROR(ParseWhole(end, &stmt->body));
    loops_ = loops;
    stmt->uses_varargs = SpeaksOf("varargs", begin);
    stmt->uses_kwargs = SpeaksOf("kwargs", begin);
    stmt->uses_caller = SpeaksOf("caller", begin);
    return absl::OkStatus();
  }

  absl::Status ParseMacro(Stmt* stmt) {
    stmt->kind = StmtKind::kMacro;
    HOSTLER_ASSIGN_OR_RETURN(stmt->text, TakeName());
    HOSTLER_RETURN_IF_ERROR(ParseParameters(stmt));
    return ParseMacroBody("endmacro", stmt);
  }

  absl::Status ParseCallBlock(Stmt* stmt) {
    stmt->kind = StmtKind::kCallBlock;
    if (AtOperator("(")) HOSTLER_RETURN_IF_ERROR(ParseParameters(stmt));
    HOSTLER_ASSIGN_OR_RETURN(stmt->expr, ParseExpression());
    if (stmt->expr->kind != ExprKind::kCall) return Error("expected call");
    return ParseMacroBody("endcall", stmt);
  }

  absl::Status ParseWith(Stmt* stmt) {
    stmt->kind = StmtKind::kWith;
    while (Current().type != TokenType::kBlockEnd && !AtOperator(":")) {
      if (!stmt->assignments.empty()) HOSTLER_RETURN_IF_ERROR(ExpectOperator(","));
      HOSTLER_ASSIGN_OR_RETURN(ExprPtr target, ParseTarget({}));
      HOSTLER_RETURN_IF_ERROR(ExpectOperator("="));
      HOSTLER_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      stmt->assignments.emplace_back(std::move(target), std::move(value));
    }
    return ParseWhole("endwith", &stmt->body);
  }

  absl::Status ParseNamedBlock(Stmt* stmt) {
    HOSTLER_ASSIGN_OR_RETURN(stmt->text, TakeName());
    SkipName("scoped");
    SkipName("required");
    HOSTLER_RETURN_IF_ERROR(ParseWhole("endblock", &stmt->body));
    SkipName(stmt->text);
    return absl::OkStatus();
  }

  absl::Status ParseLoopControl(const std::string& name, Stmt* stmt) {
    if (loops_ == 0) return Error(fmt::format("'{}' outside of a loop", name));
    stmt->kind = name == "break" ? StmtKind::kBreak : StmtKind::kContinue;
    return absl::OkStatus();
  }

  int loops_ = 0;  // loops around the statement being parsed
};

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  HOSTLER_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace hostler::jinja
