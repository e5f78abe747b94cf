// hostler route eval --log: a running server's decisions, judged and replayed.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/commands/command.h"
#include "server/route_config.h"

namespace hostler {

struct LogEvalFlags {
  std::string log;  // "": not asked for
  bool skip_bad = false;
  std::string virtual_model;            // "": of all
  std::vector<std::string> quality_as;  // TARGET=MODEL
  VirtualModelConfig policy;            // what to replay with
  bool replay = false;                  // any of its settings was given
};

void AddLogEvalFlags(CLI::App* eval, LogEvalFlags* flags);

// Prints the report. `router`: the file whose predictions count, "": those of the log.
absl::Status EvalLog(const LogEvalFlags& flags, const std::string& router, bool json);

}  // namespace hostler
