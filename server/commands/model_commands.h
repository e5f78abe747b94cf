// The commands that work on a model without serving it.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine/engine.h"
#include "server/commands/command.h"

namespace hostler {

// Engine::Load, with a line on stderr meanwhile if that is a terminal. Warnings
// go there too, unless they have somewhere to go.
absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const ModelFlags& flags);

// Checks of flags, without CLI11's own words in --help.
inline CLI::Validator Between(int low, int high) { return CLI::Range(low, high).description(""); }
inline CLI::Validator Positive() { return CLI::PositiveNumber.description(""); }

void AddRunCommand(CLI::App* app, RunCommand* run);
void AddInspectCommand(CLI::App* app, RunCommand* run);
void AddLogitsCommand(CLI::App* app, RunCommand* run);
void AddPerplexityCommand(CLI::App* app, RunCommand* run);
void AddTokenizeCommand(CLI::App* app, RunCommand* run);
void AddChatTemplateCommand(CLI::App* app, RunCommand* run);
void AddBenchCommand(CLI::App* app, RunCommand* run);
void AddPackCommand(CLI::App* app, RunCommand* run);
void AddVerifyCommand(CLI::App* app, RunCommand* run);
// Of a server that runs, by HTTP.
void AddTopCommand(CLI::App* app, RunCommand* run);

}  // namespace hostler
