#include <string>
#include <utility>

#include "fmt/format.h"
#include "server/openai/common_fields.h"

namespace hostler {
namespace {

// Template variables that have a field of their own.
constexpr std::string_view kReserved[] = {"messages", "tools", "documents",
                                          "add_generation_prompt"};

std::string MustBe(std::string_view wanted, const Json& value) {
  return fmt::format("must be {}, not {}", wanted, JsonTypeName(value));
}

// The text of an array of content parts, joined by line ends as vLLM does it.
std::string JoinParts(FieldReader* message, const Json& parts) {
  std::string text;
  for (size_t i = 0; i < parts.size() && message->ok(); ++i) {
    const std::string name = fmt::format("content[{}]", i);
    const Json& part = parts[i];
    if (!part.is_object()) {
      message->Fail(name, MustBe("an object", part));
      break;
    }
    FieldReader fields(part, message->Path(name));
    std::string type, piece;
    fields.Read("type", &type);
    if (fields.ok() && type != "text") {
      fields.Fail("type", "only text parts are supported");
    }
    fields.Read("text", &piece);
    if (fields.Find("text") == nullptr) fields.Fail("text", "is required");
    message->Fail(fields.status());
    if (i > 0) text += '\n';
    text += piece;
  }
  return text;
}

void ReadContent(FieldReader* fields, const std::string& role, Json* message) {
  const Json* content = fields->Find("content");
  if (content == nullptr) {
    // Only an assistant may say nothing (when it calls tools).
    if (role != "assistant") return fields->Fail("content", "is required");
    (*message)["content"] = "";
  } else if (content->is_array()) {
    (*message)["content"] = JoinParts(fields, *content);
  } else if (!content->is_string()) {
    fields->Fail("content", MustBe("a string or an array of text parts", *content));
  }
}

// Templates want a call's arguments as an object, clients send them as text.
void ReadToolCall(FieldReader* message, const std::string& name, Json* call) {
  if (!call->is_object()) return message->Fail(name, MustBe("an object", *call));
  if (FindKey(*call, "function") == nullptr) {
    return message->Fail(name + ".function", "is required");
  }
  Json& function = (*call)["function"];
  if (!function.is_object())
    return message->Fail(name + ".function", MustBe("an object", function));
  FieldReader fields(function, message->Path(name + ".function"));
  std::string function_name, arguments;
  fields.Read("name", &function_name);
  if (function_name.empty()) fields.Fail("name", "is required");
  const Json* given = fields.Find("arguments");
  if (given == nullptr || given->is_object()) return message->Fail(fields.status());
  fields.Read("arguments", &arguments);
  message->Fail(fields.status());
  if (!message->ok()) return;
  absl::StatusOr<Json> parsed = arguments.empty() ? Json::object() : ParseJson(arguments);
  if (!parsed.ok() || !parsed->is_object()) {
    fields.Fail("arguments", "must be a JSON object as text");
    return message->Fail(fields.status());
  }
  function["arguments"] = *std::move(parsed);
}

void ReadToolCalls(FieldReader* fields, Json* message) {
  const Json* calls = fields->Find("tool_calls");
  if (calls == nullptr) return;
  if (!calls->is_array()) return fields->Fail("tool_calls", MustBe("an array", *calls));
  Json& copy = (*message)["tool_calls"];
  for (size_t i = 0; i < copy.size() && fields->ok(); ++i) {
    ReadToolCall(fields, fmt::format("tool_calls[{}]", i), &copy[i]);
  }
}

// Checks messages[i] and brings it into the form that templates expect.
absl::Status ReadMessage(const Json& given, std::string path, Json* message) {
  FieldReader fields(given, std::move(path));
  std::string role, name, tool_call_id;
  fields.Read("role", &role);
  if (role.empty()) fields.Fail("role", "is required");
  fields.Read("name", &name);
  fields.Read("tool_call_id", &tool_call_id);
  *message = given;
  ReadContent(&fields, role, message);
  ReadToolCalls(&fields, message);
  return fields.status();
}

void ReadMessages(FieldReader* fields, Json* messages) {
  const Json* given = fields->Find("messages");
  if (given == nullptr) return fields->Fail("messages", "is required");
  if (!given->is_array()) return fields->Fail("messages", MustBe("an array", *given));
  if (given->empty()) return fields->Fail("messages", "must not be empty");
  *messages = Json::array();
  for (size_t i = 0; i < given->size() && fields->ok(); ++i) {
    const std::string name = fmt::format("messages[{}]", i);
    if (!(*given)[i].is_object()) return fields->Fail(name, MustBe("an object", (*given)[i]));
    Json message;
    fields->Fail(ReadMessage((*given)[i], fields->Path(name), &message));
    messages->push_back(std::move(message));
  }
}

void ReadObjects(FieldReader* fields, std::string_view name, Json* to) {
  const Json* given = fields->Find(name);
  if (given == nullptr) return;
  if (!given->is_array()) return fields->Fail(name, MustBe("an array of objects", *given));
  for (size_t i = 0; i < given->size(); ++i) {
    const Json& item = (*given)[i];
    if (!item.is_object()) {
      return fields->Fail(fmt::format("{}[{}]", name, i), MustBe("an object", item));
    }
  }
  if (!given->empty()) *to = *given;
}

void CheckTools(FieldReader* fields, const Json& tools) {
  for (size_t i = 0; i < tools.size() && fields->ok(); ++i) {
    FieldReader tool(tools[i], fields->Path(fmt::format("tools[{}]", i)));
    std::string type = "function", name;
    tool.Read("type", &type);
    if (type != "function") tool.Fail("type", "must be \"function\"");
    const Json* function = tool.Find("function");
    if (function == nullptr || !function->is_object()) {
      tool.Fail("function", "must be an object");
    } else {
      FieldReader reader(*function, tool.Path("function"));
      reader.Read("name", &name);
      if (name.empty()) reader.Fail("name", "is required");
      tool.Fail(reader.status());
    }
    fields->Fail(tool.status());
  }
}

void ReadVariables(FieldReader* fields, Json* variables) {
  *variables = Json::object();
  std::string effort;
  fields->Read("reasoning_effort", &effort);
  const Json* given = fields->Find("chat_template_kwargs");
  if (given != nullptr) {
    if (!given->is_object()) {
      return fields->Fail("chat_template_kwargs", MustBe("an object", *given));
    }
    for (std::string_view name : kReserved) {
      if (FindKey(*given, name) != nullptr) {
        return fields->Fail(fmt::format("chat_template_kwargs.{}", name),
                            "is a field of the request itself");
      }
    }
    *variables = *given;
  }
  if (!effort.empty() && FindKey(*variables, "reasoning_effort") == nullptr) {
    (*variables)["reasoning_effort"] = effort;
  }
}

}  // namespace

void ReadChatPrompt(FieldReader* fields, ChatPrompt* prompt) {
  ReadMessages(fields, &prompt->messages);
  ReadObjects(fields, "tools", &prompt->tools);
  CheckTools(fields, prompt->tools);
  ReadObjects(fields, "documents", &prompt->documents);
  ReadVariables(fields, &prompt->variables);
  fields->Read("add_generation_prompt", &prompt->add_generation_prompt);
}

}  // namespace hostler
