// /admin/cache: what each model's memory is given to and what its expert cache
// does, as JSON, and moving it. docs/operations.md explains the fields.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/base/json.h"
#include "server/engine_snapshot.h"
#include "server/service.h"

namespace hostler {

// One entry of "models".
Json CacheJson(const EngineSnapshot& engine);

// What GET answers: {"models": [...]}, of all models with an engine here, or
// the one named; "" is all. Errors: EngineFor's.
absl::StatusOr<std::string> ReportCaches(const Service& service, const std::string& model);

// What POST does and answers: {"model": NAME, "expert_memory": bytes or "1.5GiB"}
// moves the split while serving, by Engine::SetExpertMemory; the answer is the
// new division. `model` may be left out where there is one. Errors: FieldErrors,
// with the bounds; EngineFor's.
absl::StatusOr<std::string> MoveExpertMemory(const Service& service, std::string_view body);

}  // namespace hostler
