// hostler perplexity: how well a model predicts a text.

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/commands/model_commands.h"
#include "server/commands/perplexity_score.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"

namespace hostler {
namespace {

struct PerplexityFlags {
  ModelFlags model;
  std::string file;
  int ctx = 256;
  bool llama_cpp = false;
  bool json = false;
};

// llama-perplexity's: windows begin with the BOS that the tokenizer adds and
// give their first half as context.
Windows LlamaCppWindows(const Tokenizer& tokenizer, int ctx) {
  Windows windows{.tokens = ctx, .context = ctx / 2 + 1, .whole_only = true};
  if (!tokenizer.Encode("", {.add_special = true}).empty()) windows.bos = tokenizer.bos_id();
  return windows;
}

absl::StatusOr<PerplexityScore> ScoreFile(Engine* engine, const std::string& text,
                                          const PerplexityFlags& flags) {
  if (engine->tokenizer() == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer beside its weights");
  }
  if (flags.ctx > engine->max_context()) {
    return absl::InvalidArgumentError(
        fmt::format("--ctx {} is more than the context of {}", flags.ctx, engine->max_context()));
  }
  const Windows windows = flags.llama_cpp ? LlamaCppWindows(*engine->tokenizer(), flags.ctx)
                                          : Windows{.tokens = flags.ctx};
  const std::vector<int32_t> ids =
      engine->tokenizer()->Encode(text, {.parse_special = true, .add_special = flags.llama_cpp});
  ProgressLine line;
  const auto start = std::chrono::steady_clock::now();
  return ScoreWindows(
      ids, windows, engine->model().vocab, *engine->tokenizer(),
      [engine](const std::vector<int32_t>& tokens) { return engine->Logits(tokens); },
      [&](int64_t done, const PerplexityScore& score) {
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        line.Show(fmt::format("{} of {} tokens, {:.0f} tokens/s, perplexity {:.3f}", done,
                              ids.size(), done / seconds, score.perplexity()));
      });
}

int Perplexity(const PerplexityFlags& flags) {
  const absl::StatusOr<std::string> text = ReadFile(flags.file);
  if (!text.ok()) return FailRunning(text.status());
  auto engine = LoadEngine(flags.model);
  if (!engine.ok()) return FailRunning(engine.status());
  const absl::StatusOr<PerplexityScore> score = ScoreFile(engine->get(), *text, flags);
  if (!score.ok()) return Fail(score.status());
  if (flags.json) {
    fmt::print("{}\n", DumpLine({{"perplexity", score->perplexity()},
                                 {"bits_per_byte", score->bits_per_byte()},
                                 {"tokens", score->tokens}}));
  } else {
    fmt::print("perplexity {:.4f}, {:.4f} bits per byte over {} tokens\n", score->perplexity(),
               score->bits_per_byte(), score->tokens);
  }
  return FinishStdout();
}

}  // namespace

void AddPerplexityCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = app->add_subcommand(
      "perplexity",
      "Measure how well a model predicts a text.\n"
      "The file is tokenized once, without BOS, and cut into windows that do not overlap;\n"
      "every token but the first of a window is scored");
  AddModelFlags(command, &flags->model);
  command->add_option("--file", flags->file, "The text, UTF-8")->required();
  command->add_option("--ctx", flags->ctx, "Tokens of a window")
      ->check(Between(2, 1 << 24))
      ->capture_default_str();
  command->add_flag("--llama-cpp", flags->llama_cpp,
                    "Score as llama-perplexity does: BOS begins every window, its first half\n"
                    "is context, a shorter last window is left out");
  command->add_flag("--json", flags->json, "Print {\"perplexity\",\"bits_per_byte\",\"tokens\"}");
  command->footer("Example:\n  hostler perplexity --model models/sample-moe --file heldout.txt");
  command->callback([flags, run] { *run = [flags] { return Perplexity(*flags); }; });
}

}  // namespace hostler
