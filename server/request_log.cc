#include "server/request_log.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "engine/base/status.h"
#include "fmt/chrono.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

using nlohmann::ordered_json;

std::string Now() {
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms);
}

double Rounded(double ms) { return static_cast<double>(static_cast<int64_t>(ms * 1000)) / 1000; }

// What is wrong with a request's content may quote that content, so of those
// errors only the field is told.
std::string Reason(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return ErrorField(status);
  return std::string(status.message());
}

ordered_json ToJson(const RequestRecord& record) {
  ordered_json line = {{"time", Now()},
                       {"level", "info"},
                       {"event", "request"},
                       {"id", record.id},
                       {"transport", record.transport},
                       {"endpoint", record.endpoint},
                       {"peer", record.peer},
                       // The client's own words, as long as it likes.
                       {"model", record.model.substr(0, 100)},
                       {"target", record.target},
                       {"route", record.route},
                       {"status", absl::StatusCodeToString(record.status.code())}};
  if (!record.status.ok()) line["error"] = Reason(record.status);
  line["finish_reason"] = record.finish_reason;
  line["n"] = record.n;
  line["prompt_tokens"] = record.usage.prompt_tokens;
  line["cached_prompt_tokens"] = record.usage.cached_prompt_tokens;
  line["completion_tokens"] = record.usage.completion_tokens;
  line["queued_ms"] = Rounded(record.timings.queued_ms);
  line["first_token_ms"] = Rounded(record.timings.first_token_ms);
  line["total_ms"] = Rounded(record.timings.total_ms);
  line["preemptions"] = record.timings.preemptions;
  return line;
}

std::string Dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

// key=value; a value that is empty or has other than plain characters is
// quoted as in JSON.
std::string ToText(const ordered_json& line) {
  std::string text;
  for (const auto& [key, value] : line.items()) {
    if (!text.empty()) text += ' ';
    text += key + '=';
    const bool plain =
        value.is_string() && !value.get_ref<const std::string&>().empty() &&
        value.get_ref<const std::string&>().find_first_not_of(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:[]") ==
            std::string::npos;
    text += plain ? value.get<std::string>() : Dump(value);
  }
  return text;
}

class StderrRequestLog : public RequestLog {
 public:
  explicit StderrRequestLog(bool json) : json_(json) {}

  void Write(const RequestRecord& record) override {
    if (!spdlog::should_log(spdlog::level::info)) return;
    const ordered_json line = ToJson(record);
    const std::string text = (json_ ? Dump(line) : ToText(line)) + '\n';
    // One call for the whole line, so that lines of several threads stay whole.
    // There is nobody to tell when stderr is closed.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  }

 private:
  const bool json_;
};

}  // namespace

std::unique_ptr<RequestLog> NewRequestLog(bool json) {
  return std::make_unique<StderrRequestLog>(json);
}

}  // namespace hostler
