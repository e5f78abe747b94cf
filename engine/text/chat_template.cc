#include "engine/text/chat_template.h"

#include <utility>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja/globals.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/output.h"
#include "engine/text/jinja/parser.h"
#include "engine/text/json_fields.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr size_t kMaxSourceBytes = size_t{4} << 20;

class JinjaTemplate : public ChatTemplate {
 public:
  explicit JinjaTemplate(jinja::Body body) : body_(std::move(body)) {}

  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables) const override {
    if (!variables.is_object()) {
      return absl::InvalidArgumentError("the variables of a chat template must be an object");
    }
    jinja::Context context{jinja::Limits()};
    std::optional<std::string> now;
    jinja::Interpreter::Variables values;
    for (const auto& [name, value] : variables.items()) {
      if (name == "now" && value.is_string()) {
        now = value.get<std::string>();
      } else {
        values.emplace_back(name, jinja::FromJson(context, value));
      }
    }
    std::string text;
    if (!context.failed()) {
      jinja::Interpreter interpreter(context, jinja::Globals(now), std::move(values));
      text = interpreter.Run(body_);
    }
    if (context.raised()) return absl::InvalidArgumentError(context.error());
    if (context.failed()) {
      return absl::InvalidArgumentError(
          fmt::format("chat template, line {}: {}", context.line(), context.error()));
    }
    return text;
  }

 private:
  const jinja::Body body_;
};

// A string, or a list of {"name", "template"}.
absl::StatusOr<std::optional<std::string>> TemplateOf(const nlohmann::json& config,
                                                      const std::string& path) {
  const nlohmann::json& value = FieldOrNull(config, "chat_template");
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const nlohmann::json& item : value) {
      if (FieldOrNull(item, "name") == "default") {
        HOSTLER_ASSIGN_OR_RETURN(std::string source, StringField(item, "template", path));
        return source;
      }
    }
    return std::nullopt;
  }
  return absl::InvalidArgumentError(fmt::format(
      "{}: 'chat_template' must be a string or an array, not {}", path, value.type_name()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ParseChatTemplate(const std::string& source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::InvalidArgumentError(
        fmt::format("chat template: {} bytes are too many", source.size()));
  }
  HOSTLER_ASSIGN_OR_RETURN(jinja::Body body, jinja::Parse(ReplaceBadBytes(source)));
  return std::make_unique<JinjaTemplate>(std::move(body));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string source, ReadTextFile(path));
  auto parsed = ParseChatTemplate(source);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      fmt::format("{}: {}", path, std::string(parsed.status().message())));
}

absl::StatusOr<std::optional<std::string>> ReadChatTemplate(const std::string& directory) {
  absl::StatusOr<std::string> own_file = ReadTextFile(directory + "/chat_template.jinja");
  if (own_file.ok()) return *std::move(own_file);
  if (own_file.status().code() != absl::StatusCode::kNotFound) return own_file.status();
  const std::string path = directory + "/tokenizer_config.json";
  absl::StatusOr<nlohmann::json> config = ReadJsonFile(path);
  if (config.ok()) return TemplateOf(*config, path);
  if (config.status().code() == absl::StatusCode::kNotFound) return std::nullopt;
  return config.status();
}

}  // namespace hostler
