#include <cstdio>

#include "fmt/format.h"
#include "server/commands/command.h"
#include "server/settings.h"

namespace hostler {

void AddSettingFlag(CLI::App* command, const Setting& setting,
                    std::function<absl::Status(const std::string&)> apply) {
  const std::string flag = FlagName(setting.key);
  const auto set = [flag, apply = std::move(apply)](const std::string& text) {
    const absl::Status status = apply(text);
    if (!status.ok()) throw CLI::ValidationError(flag, std::string(status.message()));
  };
  if (setting.is_switch()) {
    command->add_flag_callback(
        flag, [set] { set("true"); }, setting.help);
    return;
  }
  command->add_option_function<std::string>(flag, set, setting.help)
      ->type_name(setting.value)
      ->default_str(setting.preset);
}

void AddModelFlags(CLI::App* command, ModelFlags* flags) {
  command->add_option("model,--model", flags->path, "Directory of the model")
      ->type_name("MODEL")
      ->required();
  for (const Setting& setting : ModelSettings(&flags->options)) {
    AddSettingFlag(command, setting, setting.set);
  }
}

int Fail(const absl::Status& status) {
  fmt::print(stderr, "hostler: error: {}\n", std::string(status.message()));
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

}  // namespace hostler
