// hostler pack: a model as a packed store.

#include "engine/model/pack.h"

#include <memory>
#include <string>

#include "engine/base/bytes.h"
#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/pack_progress.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

struct PackFlags {
  std::string model, directory;
  PackOptions options;
};

int Pack(const PackFlags& flags) {
  absl::StatusOr<PackSummary> summary;
  double seconds = 0;
  {
    ByteProgress progress("packing");
    PackOptions options = flags.options;
    options.progress = [&](uint64_t done, uint64_t total) { return progress.Show(done, total); };
    summary = PackModel(flags.model, flags.directory, options);
    seconds = progress.seconds();
  }
  if (!summary.ok()) return FailRunning(summary.status());
  fmt::print("{}: {} tensors and {} experts of {} layers, from {}\n", flags.directory,
             summary->tensors, summary->experts, summary->layers, summary->source_format);
  fmt::print("read {}, wrote {}\n", FormatBytes(summary->read_bytes),
             BytesInTime(summary->written_bytes, seconds));
  return FinishStdout();
}

}  // namespace

void AddPackCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<PackFlags>();
  CLI::App* command = app->add_subcommand(
      "pack",
      "Write a model as a packed store: experts as the cache holds them, each one aligned read,\n"
      "with checksums. It is served like any other model and needs the source no more");
  command->add_option("model,--model", flags->model, "The model")->type_name("MODEL")->required();
  command->add_option("-o,--output", flags->directory, "The directory to write")
      ->type_name("DIR")
      ->required();
  command
      ->add_option_function<std::string>(
          "--type",
          [flags](const std::string& name) {
            const absl::StatusOr<PackType> type = ParsePackType(name);
            if (!type.ok()) {
              throw CLI::ValidationError("--type", std::string(type.status().message()));
            }
            flags->options.type = *type;
          },
          "Of matrices and experts: keep (as they are), bf16, q8, q4")
      ->type_name("TYPE")
      ->default_str("keep");
  command->add_flag("--force", flags->options.replace, "Replace an existing packed store");
  command->footer("Example:\n  hostler pack models/sample-moe -o sample-moe.q8 --type q8");
  command->callback([flags, run] { *run = [flags] { return Pack(*flags); }; });
}

}  // namespace hostler
