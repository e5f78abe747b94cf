// The commands that tell beforehand what a machine and a model will do.
#pragma once

#include "server/commands/command.h"

namespace hostler {

void AddDoctorCommand(CLI::App* app, RunCommand* run);
void AddPlanCommand(CLI::App* app, RunCommand* run);

}  // namespace hostler
