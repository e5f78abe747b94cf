// hostler serve: the daemon.

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/loader.h"
#include "engine/model/registry.h"
#include "fmt/format.h"
#include "server/commands/command.h"
#include "server/commands/daemon.h"
#include "server/commands/terminal.h"
#include "server/config.h"
#include "server/deployment.h"
#include "server/logging.h"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

struct ServeFlags {
  std::string config_path;
  std::vector<std::string> models;
  // Settings given as flags, in order; they win over the file's.
  std::vector<std::pair<std::string, std::string>> settings;
  bool check = false;
};

absl::Status ApplyFlags(const ServeFlags& flags, ServeConfig* config) {
  for (const Setting& setting : ServeSettings(config)) {
    for (const auto& [key, value] : flags.settings) {
      if (key == setting.key) HOSTLER_RETURN_IF_ERROR(setting.set(value));
    }
  }
  if (!flags.models.empty()) config->models.clear();
  for (const std::string& text : flags.models) {
    HOSTLER_ASSIGN_OR_RETURN(ModelConfig model, ParseModelFlag(text));
    config->models.push_back(std::move(model));
  }
  return absl::OkStatus();
}

absl::StatusOr<ServeConfig> LoadConfig(const ServeFlags& flags) {
  ServeConfig config;
  if (!flags.config_path.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string yaml, ReadFile(flags.config_path));
    HOSTLER_RETURN_IF_ERROR(ReadYaml(yaml, flags.config_path, &config));
  }
  HOSTLER_RETURN_IF_ERROR(ApplyFlags(flags, &config));
  HOSTLER_RETURN_IF_ERROR(Validate(config));
  return config;
}

absl::StatusOr<std::vector<ModelInfo>> InspectModels(const ServeConfig& config) {
  std::vector<ModelInfo> infos;
  for (const ModelConfig& model : config.models) {
    HOSTLER_ASSIGN_OR_RETURN(ModelInfo info, InspectModel(model.path));
    infos.push_back(std::move(info));
  }
  return infos;
}

// SIGTERM, SIGINT and SIGHUP, blocked in this thread and those it starts.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A client or a log reader that is gone shows in the write's own result.
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

int ServeUntilSignalled(Daemon* daemon, const sigset_t& signals, int drain_timeout_s) {
  int received = 0;
  while (sigwait(&signals, &received) == 0 && received == SIGHUP) daemon->ReloadRouters();
  spdlog::info("{}: draining, at most {} s; a second signal quits at once",
               received == SIGTERM ? "SIGTERM" : "SIGINT", drain_timeout_s);
  std::thread([signals] {
    int again = SIGHUP;
    while (again == SIGHUP) sigwait(&signals, &again);
    _exit(kExitFailed);
  }).detach();
  daemon->Drain();
  spdlog::info("stopped");
  return kExitOk;
}

int Serve(const ServeFlags& flags) {
  const sigset_t signals = BlockStopSignals();
  const absl::StatusOr<ServeConfig> config = LoadConfig(flags);
  if (!config.ok()) return Fail(config.status());
  const absl::StatusOr<std::vector<ModelInfo>> infos = InspectModels(*config);
  if (!infos.ok()) return FailRunning(infos.status());
  const absl::StatusOr<Deployment> deployment = PlanDeployment(*config, *infos);
  if (!deployment.ok()) return Fail(deployment.status());
  if (flags.check) {
    for (const ModelConfig& model : config->models) {
      if (const absl::Status status = CheckModel(model.path); !status.ok())
        return FailRunning(status);
    }
    if (const auto encoder = Daemon::LoadEncoder(*config); !encoder.ok()) {
      return FailRunning(encoder.status());
    }
    fmt::print(
        "the configuration is valid: {} model(s), {}{} virtual\n", deployment->models.size(),
        config->upstreams.empty() ? "" : fmt::format("{} upstream(s), ", config->upstreams.size()),
        deployment->virtual_models.size());
    return FinishStdout();
  }
  StartLogging(config->log_format, config->log_level);
  const absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Start(*config, *deployment);
  if (!daemon.ok()) return FailRunning(daemon.status());
  fmt::print("{}", (*daemon)->Describe());
  std::fflush(stdout);
  return ServeUntilSignalled(daemon->get(), signals, config->drain_timeout_s);
}

}  // namespace

void AddServeCommand(CLI::App* app, RunCommand* run) {
  const auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app->add_subcommand(
      "serve",
      "Serve models over HTTP (OpenAI's API) and gRPC.\n"
      "Every flag but --config, --model and --check is a key of the YAML file as well "
      "(--expert-memory is expert_memory); flags win.");
  command->add_option("--config", flags->config_path, "YAML file")->type_name("FILE");
  command
      ->add_option("--model", flags->models,
                   "Model to serve; may be given several times. Memory is divided between them in "
                   "proportion to their files' sizes")
      ->type_name("[NAME=]PATH")
      ->allow_extra_args(false);
  command->add_flag("--check", flags->check, "Validate the configuration and exit");
  // Values are checked here, where the error can name the flag, and take
  // effect after the file's.
  const auto checked = std::make_shared<ServeConfig>();
  for (const Setting& setting : ServeSettings(checked.get())) {
    AddSettingFlag(command, setting, [flags, checked, setting](const std::string& text) {
      flags->settings.emplace_back(setting.key, text);
      return setting.set(text);
    });
  }
  command->callback([flags, run] { *run = [flags] { return Serve(*flags); }; });
}

}  // namespace hostler
