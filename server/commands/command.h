// The subcommands of `hostler`, and the flags they share.
//
// Each command lives in a file of its own and has one function that adds it to
// the command line. main.cc lists those functions.
#pragma once

#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "engine/engine/engine.h"
#include "server/settings.h"

namespace hostler {

// Exit codes of every command.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;  // the command line or configuration is wrong

// What the chosen command does; returns the exit code.
using RunCommand = std::function<int()>;

// Adds a subcommand to `app`. When it is the one given, `*run` is set during
// parsing; main calls it afterwards. `run` outlives the parsing; options must
// be stored where they live as long as `app` (a shared_ptr that the callbacks
// hold):
//
//   void AddTokenizeCommand(CLI::App* app, RunCommand* run) {
//     auto flags = std::make_shared<TokenizeFlags>();
//     CLI::App* command = app->add_subcommand("tokenize", "Print a text's token ids");
//     AddModelFlags(command, &flags->model);
//     command->callback([flags, run] { *run = [flags] { return Tokenize(*flags); }; });
//   }
using AddCommand = void (*)(CLI::App* app, RunCommand* run);

// One for each command; a new one adds its line here and in main.cc.
void AddServeCommand(CLI::App* app, RunCommand* run);

// A model and how to load it, for commands that use one.
struct ModelFlags {
  std::string path;
  EngineOptions options;
};

// Adds MODEL (positional or --model; required) and the flags of
// ModelSettings(): --memory, --expert-memory, --kv-memory, --threads,
// --quantize, --precise, --max-context. A bad value is a usage error that
// names its flag.
void AddModelFlags(CLI::App* command, ModelFlags* flags);

// Adds one setting as a flag ("expert_memory" is --expert-memory) whose value
// goes to `apply`; the error that returns becomes a usage error.
void AddSettingFlag(CLI::App* command, const Setting& setting,
                    std::function<absl::Status(const std::string&)> apply);

// Prints "hostler: error: …" to stderr and returns the exit code for it:
// kExitUsage for InvalidArgument, else kExitFailed.
int Fail(const absl::Status& status);

}  // namespace hostler
