#include "server/commands/route_log_eval.h"

#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/quality/predictor.h"
#include "server/commands/route_replay.h"

namespace hostler {
namespace {

absl::StatusOr<std::vector<TargetTerms>> ReadNames(const std::vector<std::string>& flags) {
  std::vector<TargetTerms> terms;
  for (const std::string& text : flags) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
      return absl::InvalidArgumentError(
          fmt::format("--quality-as: \"{}\" is not TARGET=MODEL", text));
    }
    terms.push_back({.target = text.substr(0, equals), .quality_as = text.substr(equals + 1)});
  }
  return terms;
}

}  // namespace

void AddLogEvalFlags(CLI::App* eval, LogEvalFlags* flags) {
  constexpr char kGroup[] = "Of --log";
  eval->add_option("--log", flags->log, "Instead: judge and replay this route_log")
      ->type_name("FILE")
      ->group(kGroup);
  eval->add_flag("--skip-bad-lines", flags->skip_bad, "Count lines that are damaged, do not stop")
      ->group(kGroup);
  eval->add_option("--virtual-model", flags->virtual_model, "Only this one's decisions")
      ->type_name("NAME")
      ->group(kGroup);
  eval->add_option("--quality-as", flags->quality_as,
                   "The model of --router that a target is taken for")
      ->type_name("TARGET=MODEL")
      ->group(kGroup);
  flags->policy.policy = "cost_quality";
  eval->add_option_function<std::string>(
          "--policy",
          [flags](const std::string& name) {
            flags->policy.policy = name;
            flags->replay = true;
          },
          "Replay with it: cost_quality, best_effort or bandit. (static looks at no prediction, "
          "and what a cascade would have seen of an answer is not logged)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"cost_quality", "best_effort", "bandit"}))
      ->group(kGroup);
  for (const Setting& setting : ChooserSettings(&flags->policy)) {
    AddSettingFlag(eval, setting, [flags, set = setting.set](const std::string& text) {
      flags->replay = true;
      return set(text);
    });
    eval->get_option(FlagName(setting.key))->group(kGroup);
  }
}

absl::Status EvalLog(const LogEvalFlags& flags, const std::string& router, bool json) {
  const VirtualModelConfig& policy = flags.policy;
  if (policy.policy == "best_effort" && !policy.deadline_ms.has_value()) {
    return absl::InvalidArgumentError("--policy best_effort needs --deadline-ms");
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::vector<TargetTerms> names, ReadNames(flags.quality_as));
  if (!names.empty() && router.empty()) {
    return absl::InvalidArgumentError("--quality-as needs --router");
  }
  HOSTLER_ASSIGN_OR_RETURN(RouteLog log, ReadRouteLog(flags.log, flags.skip_bad));
  if (!flags.virtual_model.empty()) {
    std::erase_if(log.decisions, [&](const LoggedDecision& each) {
      return each.decision.virtual_model != flags.virtual_model;
    });
  }
  if (log.decisions.empty()) {
    return absl::FailedPreconditionError(
        fmt::format("{} holds no decision{}", flags.log,
                    flags.virtual_model.empty() ? "" : " of \"" + flags.virtual_model + "\""));
  }
  if (!router.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(const auto source, QualityPredictor::Load(router));
    HOSTLER_RETURN_IF_ERROR(PredictAgain(*source, names, &log));
  }
  Json report = {{"log",
                  {{"decisions", log.decisions.size()},
                   {"feedback", log.feedback.size()},
                   {"truncated", log.truncated},
                   {"skipped", log.skipped}}},
                 {"calibration", CalibrationJson(log)}};
  if (flags.replay) {
    report.update(ReplayJson(
        log, {.new_chooser = [&] { return NewChooser(policy); }, .limits = LimitsOf(policy)}));
  }
  fmt::print("{}", json ? report.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"
                        : LogReportText(report));
  return absl::OkStatus();
}

}  // namespace hostler
