// A decision log judged: how predictions turned out, and what another policy
// would have chosen. As `hostler route eval --log` tells it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/json.h"
#include "router/policy/chooser.h"
#include "router/policy/quality_slot.h"
#include "server/commands/route_log.h"

namespace hostler {

// Predicted against observed, a row for each target: {"model", "requests", "failed", "shadows",
// "cost_usd" and "latency_s": {"n", "predicted", "observed", "mae"}, "quality": the same
// with "brier" and "ece"}. Means; null where n is 0. Of answers that were
// the first target's own (what others were asked for in vain is nobody's prediction), and shadows.
Json CalibrationJson(const RouteLog& log);

// Puts the qualities that `source` predicts in place of the logged ones. `terms` name
// the columns of targets that have other names there. Errors: FailedPrecondition for a log
// without texts, and for a target that the source does not know.
absl::Status PredictAgain(const QualitySource& source, const std::vector<TargetTerms>& terms,
                          RouteLog* log);

struct ReplayOptions {
  std::function<std::unique_ptr<Chooser>()> new_chooser;  // one for each virtual model
  Limits limits;
};

// The decisions as they were and as the policy would have taken them, each
// {"decisions", "share": {target: share}, "predicted_quality", "predicted_cost_usd",
// "matched", "judged", "observed_quality", "interval"}. Each chooses among the candidates
// that could be asked then, by logged predictions; feedback teaches it where the
// same target was chosen. observed_quality is the mean score of the answers whose target it
// chose too; unbiased only where the log's policy chose by chance.
Json ReplayJson(const RouteLog& log, const ReplayOptions& options);

// Tables for people. `report`: {"log", "calibration", "logged", "replayed"}; the last two may lack.
std::string LogReportText(const Json& report);

}  // namespace hostler
