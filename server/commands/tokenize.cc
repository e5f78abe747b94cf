// hostler tokenize: text → token ids, and back.

#include <iostream>
#include <memory>

#include "engine/model/model_text.h"
#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"

namespace hostler {
namespace {

struct TokenizeFlags {
  ModelFlags model;
  TokenizeOptions options;
};

int Tokenize(const TokenizeFlags& flags) {
  const absl::StatusOr<ModelText> text = LoadModelText(flags.model.path);
  if (!text.ok()) return FailRunning(text.status());
  if (text->tokenizer == nullptr) {
    return FailRunning(absl::NotFoundError(fmt::format("{} has no tokenizer", flags.model.path)));
  }
  std::ios::sync_with_stdio(false);
  const absl::Status status = TokenizeStream(*text->tokenizer, flags.options, std::cin, std::cout);
  std::cout.flush();
  if (!status.ok()) return FailRunning(status);
  if (!std::cout) return FailRunning(absl::UnavailableError("cannot write to stdout"));
  return kExitOk;
}

}  // namespace

void AddTokenizeCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<TokenizeFlags>();
  TokenizeOptions& options = flags->options;
  CLI::App* command = app->add_subcommand(
      "tokenize",
      "Print the token ids of the text on stdin, taken as it is. Only the tokenizer is loaded");
  AddModelFlags(command, &flags->model);
  command->add_flag("--json", options.json, "Print a JSON list (with --decode: a JSON string)");
  command->add_flag("--decode", options.decode,
                    "The other way: ids on stdin, their text is printed");
  command->add_flag("--special", options.encode.parse_special,
                    "Special tokens written in the text become their ids");
  command->add_flag("--add-special", options.encode.add_special,
                    "Add the BOS and EOS that the tokenizer adds to a prompt");
  command->add_flag(
      "--jsonl", options.lines,
      "One JSON string a line becomes a JSON list a line (with --decode: the reverse)");
  command->footer(
      "Examples:\n"
      "  printf 'Hello there' | hostler tokenize --model models/sample-moe\n"
      "  echo '[16, 389]' | hostler tokenize --model models/sample-moe --decode");
  command->callback([flags, run] { *run = [flags] { return Tokenize(*flags); }; });
}

}  // namespace hostler
