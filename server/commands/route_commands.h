// The commands that train, judge and question routers.
#pragma once

#include "server/commands/command.h"

namespace hostler {

void AddRouteCommand(CLI::App* app, RunCommand* run);
void AddRouteExplain(CLI::App* route, RunCommand* run);

}  // namespace hostler
