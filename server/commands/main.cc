// hostler: the command line.

#include <array>

#include "CLI/CLI.hpp"
#include "server/commands/command.h"
#include "server/commands/model_commands.h"
#include "server/commands/plan_commands.h"
#include "server/commands/route_commands.h"
#include "server/commands/trace_commands.h"

namespace hostler {
namespace {

constexpr std::array kCommands = {
    AddServeCommand,        AddRunCommand,    AddInspectCommand,    AddPackCommand,
    AddVerifyCommand,       AddLogitsCommand, AddPerplexityCommand, AddTokenizeCommand,
    AddChatTemplateCommand, AddBenchCommand,  AddTraceCommand,      AddReplayCommand,
    AddAnalyzeCommand,      AddPlanCommand,   AddDoctorCommand,     AddTopCommand,
    AddRouteCommand,
};

int Main(int argc, char** argv) {
  CLI::App app("Serves Mixture-of-Experts language models that do not fit in memory.", "hostler");
  app.set_version_flag("--version", "hostler " HOSTLER_VERSION);
  app.require_subcommand(1);
  RunCommand run;
  for (AddCommand add : kCommands) add(&app, &run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitOk : kExitUsage;
  }
  return run();
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) { return hostler::Main(argc, argv); }
