// hostler chat-template: messages → the prompt that a model's template makes.

#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "engine/base/status.h"
#include "engine/model/model_text.h"
#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/settings.h"

namespace hostler {
namespace {

struct TemplateFlags {
  ModelFlags model;  // only where it lies
  std::string file;
  bool lines = false;
};

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadTemplate(const TemplateFlags& flags) {
  if (!flags.file.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string source, ReadFile(flags.file));
    return ParseChatTemplate(source);
  }
  HOSTLER_ASSIGN_OR_RETURN(ModelText text, LoadModelText(flags.model.path));
  if (text.chat_template != nullptr) return std::move(text.chat_template);
  return absl::NotFoundError(fmt::format("{} has no chat template", flags.model.path));
}

int RenderChat(const TemplateFlags& flags) {
  const auto chat_template = LoadTemplate(flags);
  if (!chat_template.ok()) return FailRunning(chat_template.status());
  if (flags.lines) {
    std::ios::sync_with_stdio(false);
    RenderLines(**chat_template, std::cin, std::cout);
    std::cout.flush();
    if (!std::cout) return FailRunning(absl::UnavailableError("cannot write to stdout"));
    return kExitOk;
  }
  const absl::StatusOr<std::string> text = RenderVariables(**chat_template, ReadStdin());
  if (!text.ok()) return FailRunning(text.status());
  std::fwrite(text->data(), 1, text->size(), stdout);
  return FinishStdout();
}

}  // namespace

void AddChatTemplateCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<TemplateFlags>();
  CLI::App* command = app->add_subcommand(
      "chat-template",
      "Print the prompt that a chat template makes of the JSON object on stdin.\n"
      "Each of its keys is a template variable: messages, tools, add_generation_prompt,\n"
      "bos_token, ...; \"now\" (ISO time) is what strftime_now uses. None is added");
  CLI::Option_group* source = command->add_option_group("source");
  source->add_option("model,--model", flags->model.path, "Directory of the model")
      ->type_name("MODEL");
  source->add_option("--template", flags->file, "A file with the template itself");
  source->require_option(1);
  // As every command that takes a model.
  for (const Setting& setting : ModelSettings(&flags->model.options)) {
    AddSettingFlag(command, setting, setting.set);
  }
  command->add_flag("--jsonl", flags->lines,
                    "One object a line; prints {\"text\": ...} or {\"error\": ...} a line");
  command->footer(
      "Example:\n"
      "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], "
      "\"add_generation_prompt\": true}' \\\n"
      "    | hostler chat-template --model models/sample-moe");
  command->callback([flags, run] { *run = [flags] { return RenderChat(*flags); }; });
}

}  // namespace hostler
