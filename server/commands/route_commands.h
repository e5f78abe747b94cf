// The commands that train and judge routers.
#pragma once

#include "server/commands/command.h"

namespace hostler {

void AddRouteCommand(CLI::App* app, RunCommand* run);

}  // namespace hostler
