// The commands that work on expert traces.
#pragma once

#include "server/commands/command.h"

namespace hostler {

void AddReplayCommand(CLI::App* app, RunCommand* run);
void AddAnalyzeCommand(CLI::App* app, RunCommand* run);
void AddTraceCommand(CLI::App* app, RunCommand* run);

}  // namespace hostler
