// hostler logits: the logits of every position, for comparison with a
// reference.

#include <memory>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/npy.h"
#include "server/commands/terminal.h"
#include "server/commands/token_list.h"

namespace hostler {
namespace {

struct LogitsFlags {
  ModelFlags model;
  std::string tokens;
  std::string out;
};

int Logits(const LogitsFlags& flags) {
  const absl::StatusOr<std::vector<int32_t>> tokens = ReadTokensFlag(flags.tokens);
  if (!tokens.ok()) return Fail(tokens.status());
  auto engine = LoadEngine(flags.model);
  if (!engine.ok()) return FailRunning(engine.status());
  const absl::StatusOr<std::vector<float>> logits = (*engine)->Logits(*tokens);
  if (!logits.ok()) return Fail(logits.status());
  const int64_t rows = tokens->size(), vocab = (*engine)->model().vocab;
  if (static_cast<int64_t>(logits->size()) != rows * vocab) {
    return FailRunning(absl::InternalError("the engine returned logits of another shape"));
  }
  const absl::Status written = WriteNpy(flags.out, rows, vocab, *logits);
  return written.ok() ? kExitOk : FailRunning(written);
}

}  // namespace

void AddLogitsCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app->add_subcommand(
      "logits",
      "Write the logits of every position of a prompt to a NumPy file, float32 [tokens, vocab].\n"
      "Needs no tokenizer");
  AddModelFlags(command, &flags->model);
  command
      ->add_option("--tokens", flags->tokens,
                   "Token ids: 1,2,3 or @FILE (ids between commas or space, or a JSON list)")
      ->required();
  command->add_option("--out", flags->out, "The .npy file to write")->required();
  command->footer(
      "Example:\n  hostler logits --model models/sample-moe --tokens 5,6,7 --out x.npy");
  command->callback([flags, run] { *run = [flags] { return Logits(*flags); }; });
}

}  // namespace hostler
