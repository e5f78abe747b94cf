#include "server/logging.h"

#include <memory>

#include "nlohmann/json.hpp"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

constexpr char kTime[] = "%Y-%m-%dT%H:%M:%S.%eZ";

// The message as a JSON string.
class JsonMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& to) override {
    const nlohmann::json text = std::string(message.payload.data(), message.payload.size());
    const std::string quoted = text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    to.append(quoted.data(), quoted.data() + quoted.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

}  // namespace

void StartLogging(const std::string& format, const std::string& level) {
  auto formatter =
      std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc, "\n");
  const std::string time = kTime;
  if (format == "json") {
    formatter->add_flag<JsonMessage>('*').set_pattern(
        "{\"time\":\"" + time + "\",\"level\":\"%l\",\"event\":\"log\",\"message\":%*}");
  } else {
    formatter->add_flag<JsonMessage>('*').set_pattern("time=" + time +
                                                      " level=%l event=log message=%*");
  }
  auto logger = std::make_shared<spdlog::logger>("hostler",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(std::move(formatter));
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace hostler
