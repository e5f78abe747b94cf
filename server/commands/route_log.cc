#include "server/commands/route_log.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr size_t kMaxLineBytes = 16 << 20;
constexpr double kMaxInt = std::numeric_limits<int>::max();
constexpr double kMaxNumber = 1e15;

absl::Status BadField(std::string_view key, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("\"{}\" {}", key, what));
}

absl::Status ReadText(const Json& object, std::string_view key, std::string* to) {
  const Json* value = FindKey(object, key);
  if (value == nullptr || !value->is_string()) return BadField(key, "is not a text");
  *to = value->get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadNumber(const Json& object, std::string_view key, double low, double high,
                        double* to) {
  const Json* value = FindKey(object, key);
  const bool number = value != nullptr && value->is_number();
  if (!number || !(value->get<double>() >= low && value->get<double>() <= high)) {
    return BadField(key, fmt::format("is not a number from {} to {}", low, high));
  }
  *to = value->get<double>();
  return absl::OkStatus();
}

// Null is what is not known.
absl::Status ReadPrediction(const Json& object, std::string_view key, double high, double* to) {
  const Json* value = FindKey(object, key);
  if (value != nullptr && value->is_null()) return absl::OkStatus();
  return ReadNumber(object, key, 0, high, to);
}

absl::Status ReadCount(const Json& object, std::string_view key, int* to) {
  double value = 0;
  HOSTLER_RETURN_IF_ERROR(ReadNumber(object, key, 0, kMaxInt, &value));
  *to = static_cast<int>(value);
  return absl::OkStatus();
}

absl::StatusOr<const Json*> ReadObject(const Json& object, std::string_view key) {
  const Json* value = FindKey(object, key);
  if (value == nullptr || !value->is_object()) return BadField(key, "is not an object");
  return value;
}

absl::Status ReadCandidate(const Json& json, CandidateReport* candidate) {
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "model", &candidate->target));
  HOSTLER_RETURN_IF_ERROR(ReadPrediction(json, "quality", 1, &candidate->quality));
  HOSTLER_RETURN_IF_ERROR(
      ReadPrediction(json, "output_tokens", kMaxInt, &candidate->output_tokens));
  HOSTLER_RETURN_IF_ERROR(ReadPrediction(json, "cost_usd", kMaxNumber, &candidate->cost_usd));
  HOSTLER_RETURN_IF_ERROR(
      ReadPrediction(json, "first_token_s", kMaxNumber, &candidate->first_token_s));
  HOSTLER_RETURN_IF_ERROR(ReadPrediction(json, "latency_s", kMaxNumber, &candidate->latency_s));
  HOSTLER_RETURN_IF_ERROR(ReadCount(json, "cached_tokens", &candidate->cached_tokens));
  if (FindKey(json, "left_out") == nullptr) return absl::OkStatus();
  return ReadText(json, "left_out", &candidate->left_out);
}

absl::Status ReadWish(const Json& wish, RouteWish* to) {
  const auto read = [&](std::string_view key, double high, double unit,
                        std::optional<double>* bound) -> absl::Status {
    if (FindKey(wish, key) == nullptr) return absl::OkStatus();
    double value = 0;
    HOSTLER_RETURN_IF_ERROR(ReadNumber(wish, key, 0, high, &value));
    *bound = value * unit;
    return absl::OkStatus();
  };
  HOSTLER_RETURN_IF_ERROR(read("min_quality", 1, 1, &to->min_quality));
  HOSTLER_RETURN_IF_ERROR(read("max_cost", kMaxNumber, 1, &to->max_cost));
  return read("deadline_ms", kMaxNumber, 1e-3, &to->deadline_s);
}

absl::Status ReadDecision(const Json& json, Decision* decision) {
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "model", &decision->target));
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "virtual_model", &decision->virtual_model));
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "policy", &decision->policy));
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "rule", &decision->rule));
  if (FindKey(json, "wish") != nullptr) {
    HOSTLER_ASSIGN_OR_RETURN(const Json* wish, ReadObject(json, "wish"));
    HOSTLER_RETURN_IF_ERROR(ReadWish(*wish, &decision->wish));
  }
  const Json* candidates = FindKey(json, "candidates");
  if (candidates == nullptr || !candidates->is_array()) {
    return BadField("candidates", "is not a list");
  }
  for (const Json& candidate : *candidates) {
    HOSTLER_RETURN_IF_ERROR(ReadCandidate(candidate, &decision->candidates.emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadOutcome(const Json& json, RouteOutcome* outcome) {
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "model", &outcome->target));
  const auto flag = [&](std::string_view key) -> absl::StatusOr<bool> {
    const Json* value = FindKey(json, key);
    if (value == nullptr || !value->is_boolean()) return BadField(key, "is not true or false");
    return value->get<bool>();
  };
  HOSTLER_ASSIGN_OR_RETURN(const bool ok, flag("ok"));
  if (!ok) outcome->status = absl::UnknownError("not told");
  HOSTLER_ASSIGN_OR_RETURN(outcome->escalated, flag("escalated"));
  HOSTLER_ASSIGN_OR_RETURN(outcome->hedged, flag("hedged"));
  HOSTLER_RETURN_IF_ERROR(ReadCount(json, "fallbacks", &outcome->fallbacks));
  HOSTLER_RETURN_IF_ERROR(ReadCount(json, "prompt_tokens", &outcome->usage.prompt_tokens));
  HOSTLER_RETURN_IF_ERROR(ReadCount(json, "completion_tokens", &outcome->usage.completion_tokens));
  HOSTLER_RETURN_IF_ERROR(ReadPrediction(json, "cost_usd", kMaxNumber, &outcome->cost_usd));
  double first = 0, total = 0;
  HOSTLER_RETURN_IF_ERROR(ReadNumber(json, "first_token_s", 0, kMaxNumber, &first));
  HOSTLER_RETURN_IF_ERROR(ReadNumber(json, "latency_s", 0, kMaxNumber, &total));
  outcome->timings = {.first_token_ms = first * 1000, .total_ms = total * 1000};
  return absl::OkStatus();
}

absl::Status ReadLine(const Json& json, RouteLog* log) {
  std::string type;
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "type", &type));
  if (type == "feedback") {
    LoggedFeedback feedback;
    HOSTLER_RETURN_IF_ERROR(ReadText(json, "id", &feedback.id));
    HOSTLER_RETURN_IF_ERROR(ReadText(json, "model", &feedback.target));
    HOSTLER_RETURN_IF_ERROR(ReadNumber(json, "time", 0, kMaxNumber, &feedback.time));
    HOSTLER_RETURN_IF_ERROR(ReadNumber(json, "score", 0, 1, &feedback.score));
    log->feedback.push_back(std::move(feedback));
    return absl::OkStatus();
  }
  if (type == "shadow") {
    LoggedShadow shadow;
    HOSTLER_RETURN_IF_ERROR(ReadText(json, "id", &shadow.id));
    HOSTLER_RETURN_IF_ERROR(ReadText(json, "of", &shadow.real_id));
    HOSTLER_ASSIGN_OR_RETURN(const Json* outcome, ReadObject(json, "outcome"));
    HOSTLER_RETURN_IF_ERROR(ReadOutcome(*outcome, &shadow.outcome));
    log->shadows.push_back(std::move(shadow));
    return absl::OkStatus();
  }
  if (type != "decision") {
    return BadField("type", fmt::format("is \"{:.40}\", not decision, feedback or shadow", type));
  }
  LoggedDecision logged;
  HOSTLER_RETURN_IF_ERROR(ReadNumber(json, "time", 0, kMaxNumber, &logged.time));
  HOSTLER_RETURN_IF_ERROR(ReadText(json, "id", &logged.id));
  if (FindKey(json, "prompt") != nullptr) {
    HOSTLER_RETURN_IF_ERROR(ReadText(json, "prompt", &logged.prompt));
  }
  HOSTLER_ASSIGN_OR_RETURN(const Json* decision, ReadObject(json, "decision"));
  HOSTLER_RETURN_IF_ERROR(ReadDecision(*decision, &logged.decision));
  HOSTLER_ASSIGN_OR_RETURN(const Json* outcome, ReadObject(json, "outcome"));
  HOSTLER_RETURN_IF_ERROR(ReadOutcome(*outcome, &logged.outcome));
  log->decisions.push_back(std::move(logged));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RouteLog> ReadRouteLog(const std::string& path, bool skip_bad) {
  std::error_code error;
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(fmt::format("cannot open {}", path));
  if (std::filesystem::is_directory(path, error)) {
    return absl::UnavailableError(fmt::format("{} is a directory", path));
  }
  RouteLog log;
  std::string buffer(kMaxLineBytes, '\0');
  int line = 1;
  for (; in.getline(buffer.data(), std::streamsize(buffer.size())); ++line) {
    const bool whole = !in.eof();
    // What was read, less the newline.
    const std::string_view text(buffer.data(), size_t(in.gcount()) - (whole ? 1 : 0));
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const absl::StatusOr<Json> json = ParseJson(text);
    if (!json.ok() && !whole) {
      log.truncated = true;
      break;
    }
    const absl::Status read = json.ok() ? ReadLine(*json, &log) : json.status();
    if (read.ok()) continue;
    if (!skip_bad) {
      return absl::InvalidArgumentError(
          fmt::format("{}:{}: {}", path, line, std::string(read.message())));
    }
    ++log.skipped;
  }
  if (in.bad()) return absl::UnavailableError(fmt::format("cannot read {}", path));
  if (!in.eof()) {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: longer than {} bytes", path, line, kMaxLineBytes));
  }
  return log;
}

}  // namespace hostler
