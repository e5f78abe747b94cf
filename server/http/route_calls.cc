#include "server/http/route_calls.h"

#include <openssl/sha.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/policy/quality_slot.h"
#include "router/route_wish.h"
#include "server/http/api_request.h"
#include "server/openai/fields.h"
#include "server/route_report.h"

namespace hostler {
namespace {

constexpr char kPath[] = "path";
constexpr char kVirtualModel[] = "virtual_model";

uint64_t KeyHash(const std::string& key) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest);
  uint64_t hash = 0;
  std::memcpy(&hash, digest, sizeof(hash));
  return hash;
}

absl::StatusOr<Json> ParseObject(const std::string& body) {
  HOSTLER_ASSIGN_OR_RETURN(Json json, ParseJson(body.empty() ? "{}" : body));
  if (!json.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return json;
}

// Applies `change` to the router files that the body names.
template <typename Change>
absl::StatusOr<std::string> ChangeRouters(Service* service, const Json& json, Change change) {
  FieldReader fields(json, "");
  std::string name;
  fields.Read(kVirtualModel, &name);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  Json versions = Json::object();
  for (const std::string& each : service->router().virtual_models()) {
    if (!name.empty() && each != name) continue;
    QualitySlot* slot = service->router().FindPolicy(each)->quality();
    if (slot == nullptr) continue;
    HOSTLER_ASSIGN_OR_RETURN(const uint64_t version, change(slot));
    const auto current = slot->current();
    versions[each] = {{"version", version}, {"path", current->path}};
    if (!current->no_embedding.empty()) versions[each]["no_embedding"] = current->no_embedding;
  }
  if (versions.empty()) {
    return absl::NotFoundError(
        name.empty()
            ? "no virtual model has a router file"
            : fmt::format("there is no virtual model \"{:.100}\" with a router file", name));
  }
  return versions.dump();
}

}  // namespace

void SetPayer(const HttpRequest& http, ApiRequest* request) {
  if (http.authorization.empty()) return;
  const uint64_t payer = KeyHash(http.authorization);
  for (GenerateRequest& each : request->requests) {
    RouteWish wish = each.route == nullptr ? RouteWish() : *each.route;
    wish.payer = payer;
    each.route = std::make_shared<const RouteWish>(wish);
  }
}

absl::StatusOr<std::string> ExplainRoute(Service* service, const HttpRequest& request) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseObject(request.body));
  const ApiEndpoint endpoint =
      FindKey(json, "messages") != nullptr ? ApiEndpoint::kChat : ApiEndpoint::kCompletions;
  HOSTLER_ASSIGN_OR_RETURN(ApiRequest parsed, ReadApiRequest(service->router(), request, endpoint));
  SetPayer(request, &parsed);
  HOSTLER_ASSIGN_OR_RETURN(const Decision decision, service->Explain(parsed.requests.front()));
  return DecisionJson(decision).dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::string> TakeFeedback(Service* service, const HttpRequest& request) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseObject(request.body));
  FieldReader fields(json, "");
  std::string id;
  bool good = false, bad = false;
  std::optional<double> score;
  fields.Read("id", &id);
  fields.Read("good", &good);
  fields.Read("bad", &bad);
  fields.ReadNumber("score", {0, 1}, &score);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  if (id.empty()) return FieldError("id", "must be the id of an answer");
  if (int(good) + int(bad) + int(score.has_value()) != 1) {
    return FieldError("score", "give one of score (0 to 1), good: true, bad: true");
  }
  HOSTLER_RETURN_IF_ERROR(service->routes().Feedback(id, score.value_or(good ? 1 : 0)));
  return R"({"ok":true})";
}

absl::StatusOr<std::string> ReloadRouters(Service* service, const HttpRequest& request) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseObject(request.body));
  FieldReader fields(json, "");
  std::string path;
  fields.Read(kPath, &path);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  return ChangeRouters(service, json, [&](QualitySlot* slot) {
    return path.empty() ? slot->Reload() : slot->Load(path);
  });
}

absl::StatusOr<std::string> RollBackRouters(Service* service, const HttpRequest& request) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseObject(request.body));
  return ChangeRouters(service, json, [](QualitySlot* slot) { return slot->Rollback(); });
}

}  // namespace hostler
