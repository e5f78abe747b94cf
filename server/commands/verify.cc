// hostler verify: whether a packed store is as it was written.

#include <memory>
#include <string>

#include "engine/model/pack.h"
#include "engine/weights/packed.h"
#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/pack_progress.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

constexpr size_t kMostShown = 20;

void PrintProblems(const std::vector<std::string>& problems) {
  for (size_t i = 0; i < problems.size() && i < kMostShown; ++i) {
    fmt::print(stderr, "{}\n", problems[i]);
  }
  if (problems.size() > kMostShown) {
    fmt::print(stderr, "and {} more\n", problems.size() - kMostShown);
  }
}

int Verify(const std::string& directory) {
  absl::StatusOr<PackedReport> report;
  double seconds = 0;
  {
    ByteProgress progress("verifying");
    report = VerifyPacked(
        directory, [&](uint64_t done, uint64_t total) { return progress.Show(done, total); });
    seconds = progress.seconds();
  }
  if (!report.ok()) return FailRunning(report.status());
  PrintProblems(report->problems);
  if (!report->problems.empty()) {
    return FailRunning(absl::DataLossError(
        fmt::format("{}: {} of {} tensors and experts are damaged. Pack the model again", directory,
                    report->problems.size(), report->tensors + report->experts)));
  }
  if (const absl::Status status = CheckPackedModel(directory); !status.ok()) {
    return FailRunning(status);
  }
  fmt::print("{}: as it was packed\n", directory);
  fmt::print(
      "checked the manifest, the sizes of {} files, the checksums of {} tensors and {} "
      "experts: {}\n",
      report->files, report->tensors, report->experts, BytesInTime(report->bytes, seconds));
  return FinishStdout();
}

}  // namespace

void AddVerifyCommand(CLI::App* app, RunCommand* run) {
  auto directory = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand(
      "verify", "Read a packed store in full and compare it with its checksums");
  command->add_option("model,--model", *directory, "The packed store")
      ->type_name("DIR")
      ->required();
  command->footer("Example:\n  hostler verify sample-moe.q8");
  command->callback([directory, run] { *run = [directory] { return Verify(*directory); }; });
}

}  // namespace hostler
