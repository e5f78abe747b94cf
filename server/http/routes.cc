#include "server/http/routes.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string_view>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/http/admin_cache.h"
#include "server/http/api_request.h"
#include "server/http/page.h"
#include "server/http/request_head.h"
#include "server/http/route_calls.h"

namespace hostler {
namespace {

std::string JsonString(std::string_view text) {
  std::string json;
  AppendJsonString(text, &json);
  return json;
}

Reply JsonReply(std::string body) {
  Reply reply;
  reply.body = std::move(body);
  return reply;
}

Outcome Generate(Service* service, const HttpRequest& request, ApiEndpoint endpoint) {
  absl::StatusOr<ApiRequest> parsed = ReadApiRequest(service->router(), request, endpoint);
  const CallInfo info{"http", request.path, request.peer};
  if (!parsed.ok()) {
    service->CountMalformed(parsed.status(), info);
    return ErrorReply(parsed.status());
  }
  SetPayer(request, &*parsed);
  absl::StatusOr<std::unique_ptr<Generation>> generation =
      Generation::Start(service, *std::move(parsed), info);
  if (!generation.ok()) return ErrorReply(generation.status());
  return *std::move(generation);
}

Outcome Completions(Service* service, const HttpRequest& request) {
  return Generate(service, request, ApiEndpoint::kCompletions);
}

Outcome ChatCompletions(Service* service, const HttpRequest& request) {
  return Generate(service, request, ApiEndpoint::kChat);
}

std::string IdsJson(const std::vector<int32_t>& ids) {
  return fmt::format("[{}]", fmt::join(ids, ","));
}

Outcome Tokenize(Service* service, const HttpRequest& request) {
  const auto run = [&]() -> absl::StatusOr<Reply> {
    HOSTLER_ASSIGN_OR_RETURN(const GenerateRequest parsed, ParseTokenizeRequest(request.body));
    HOSTLER_ASSIGN_OR_RETURN(const Engine* engine, service->EngineFor(parsed.model));
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, engine->TokenizePrompt(parsed));
    return JsonReply(fmt::format(R"({{"count":{},"max_model_len":{},"tokens":{}}})", ids.size(),
                                 engine->max_context(), IdsJson(ids)));
  };
  absl::StatusOr<Reply> reply = run();
  return reply.ok() ? *std::move(reply) : ErrorReply(reply.status());
}

Outcome Detokenize(Service* service, const HttpRequest& request) {
  const auto run = [&]() -> absl::StatusOr<Reply> {
    HOSTLER_ASSIGN_OR_RETURN(const DetokenizeRequest parsed, ParseDetokenizeRequest(request.body));
    HOSTLER_ASSIGN_OR_RETURN(Engine * engine, service->EngineFor(parsed.model));
    const Tokenizer* tokenizer = engine->tokenizer();
    if (tokenizer == nullptr) return absl::UnimplementedError("the model has no tokenizer");
    for (size_t i = 0; i < parsed.tokens.size(); ++i) {
      if (parsed.tokens[i] < tokenizer->vocab_size()) continue;
      return FieldError(
          fmt::format("tokens[{}]", i),
          fmt::format("must be below {}, the vocabulary's size", tokenizer->vocab_size()));
    }
    const std::string text = tokenizer->Decode(parsed.tokens, /*skip_special=*/false);
    return JsonReply(fmt::format(R"({{"prompt":{}}})", JsonString(text)));
  };
  absl::StatusOr<Reply> reply = run();
  return reply.ok() ? *std::move(reply) : ErrorReply(reply.status());
}

struct ListedModel {
  std::string id;
  int max_context = 0;
};

// Targets, then virtual models, which can take what the largest target takes.
std::vector<ListedModel> ListModels(const Router& router) {
  std::vector<ListedModel> models;
  int largest = 0;
  for (const std::unique_ptr<Target>& target : router.targets()) {
    models.push_back({target->name(), target->snapshot().max_context});
    largest = std::max(largest, models.back().max_context);
  }
  for (const std::string& name : router.virtual_models()) models.push_back({name, largest});
  return models;
}

std::string ModelJson(const ListedModel& model) {
  static const int64_t started = std::chrono::duration_cast<std::chrono::seconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count();
  return fmt::format(
      R"({{"id":{},"object":"model","created":{},"owned_by":"hostler","max_model_len":{}}})",
      JsonString(model.id), started,
      model.max_context > 0 ? std::to_string(model.max_context) : "null");
}

Outcome Models(Service* service, const HttpRequest&) {
  std::vector<std::string> entries;
  for (const ListedModel& model : ListModels(service->router())) {
    entries.push_back(ModelJson(model));
  }
  return JsonReply(fmt::format(R"({{"object":"list","data":[{}]}})", fmt::join(entries, ",")));
}

constexpr std::string_view kModelPrefix = "/v1/models/";

Outcome OneModel(Service* service, const HttpRequest& request) {
  const std::string id = request.path.substr(kModelPrefix.size());
  for (const ListedModel& model : ListModels(service->router())) {
    if (model.id == id) return JsonReply(ModelJson(model));
  }
  return ErrorReply(absl::NotFoundError(fmt::format("there is no model \"{}\"", id)));
}

Outcome Health(Service* service, const HttpRequest&) {
  Reply reply = JsonReply(service->ready() ? R"({"status":"ok"})" : R"({"status":"draining"})");
  if (!service->ready()) reply.status = 503;
  return reply;
}

Outcome Version(Service*, const HttpRequest&) {
  return JsonReply(R"({"version":")" HOSTLER_VERSION R"("})");
}

Outcome MetricsText(Service* service, const HttpRequest&) {
  Reply reply = JsonReply(service->metrics().Expose());
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  return reply;
}

Outcome JsonOrError(absl::StatusOr<std::string> body) {
  return body.ok() ? JsonReply(*std::move(body)) : ErrorReply(body.status());
}

Outcome ShowCaches(Service* service, const HttpRequest& request) {
  return JsonOrError(ReportCaches(*service, QueryValue(request.query, "model").value_or("")));
}

Outcome MoveMemory(Service* service, const HttpRequest& request) {
  return JsonOrError(MoveExpertMemory(*service, request.body));
}

template <absl::StatusOr<std::string> (*kCall)(Service*, const HttpRequest&)>
Outcome AnswerJson(Service* service, const HttpRequest& request) {
  return JsonOrError(kCall(service, request));
}

Outcome LivePage(Service*, const HttpRequest&) {
  Reply reply = JsonReply(std::string(LivePageHtml()));
  reply.content_type = "text/html; charset=utf-8";
  reply.headers = {{"Content-Security-Policy",
                    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                    "connect-src 'self'; img-src data:; frame-ancestors 'none'"},
                   {"X-Content-Type-Options", "nosniff"},
                   {"Cache-Control", "no-cache"}};
  return reply;
}

struct Route {
  std::string_view method;
  std::string_view path;  // one ending in "/", except "/" itself, is a prefix
  Outcome (*handle)(Service*, const HttpRequest&);

  bool Matches(std::string_view other) const {
    if (path.size() > 1 && path.ends_with('/')) {
      return other.size() > path.size() && other.starts_with(path);
    }
    return other == path;
  }
};

// What operators alone should reach.
constexpr std::string_view kAdminPrefix = "/admin/";

constexpr Route kRoutes[] = {
    {"POST", "/v1/completions", Completions},
    {"POST", "/v1/chat/completions", ChatCompletions},
    {"POST", "/v1/route", AnswerJson<ExplainRoute>},
    {"POST", "/v1/feedback", AnswerJson<TakeFeedback>},
    {"GET", "/v1/models", Models},
    {"GET", kModelPrefix, OneModel},
    {"POST", "/tokenize", Tokenize},
    {"POST", "/detokenize", Detokenize},
    {"GET", "/health", Health},
    {"GET", "/version", Version},
    {"GET", "/metrics", MetricsText},
    {"GET", "/admin/cache", ShowCaches},
    {"POST", "/admin/cache", MoveMemory},
    {"POST", "/admin/router/reload", AnswerJson<ReloadRouters>},
    {"POST", "/admin/router/rollback", AnswerJson<RollBackRouters>},
    {"GET", "/", LivePage},
};

}  // namespace

Outcome Dispatch(Service* service, AdminAccess admin, const HttpRequest& request) {
  if (request.path.starts_with(kAdminPrefix)) {
    const absl::Status allowed = CheckAdminAccess(admin, request);
    if (!allowed.ok()) return ErrorReply(allowed);
  }
  std::string_view method = request.method;
  if (method == "HEAD") method = "GET";
  std::vector<std::string_view> allowed;
  for (const Route& route : kRoutes) {
    if (!route.Matches(request.path)) continue;
    if (route.method == method) {
      // Such a request was sent without asking first whether it may be.
      if (method == "POST" && request.cross_origin) {
        return ErrorReply(403, "requests from pages of other sites are refused");
      }
      return route.handle(service, request);
    }
    allowed.push_back(route.method);
    if (route.method == "GET") allowed.push_back("HEAD");
  }
  if (allowed.empty()) {
    return ErrorReply(404, fmt::format("there is nothing at {}", request.path));
  }
  const std::string list = fmt::format("{}", fmt::join(allowed, ", "));
  Reply reply = ErrorReply(405, fmt::format("{} takes only {}", request.path, list));
  reply.headers.emplace_back("Allow", list);
  return reply;
}

}  // namespace hostler
