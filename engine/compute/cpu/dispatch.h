// Choice of the kernels at run time.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/compute/cpu/kernels.h"

namespace hostler {

// The tables that this CPU (and its operating system) can run, best first.
std::vector<const KernelTable*> SupportedKernels();

// The best table, of those without integer products if `isa` is "f32", or the one
// that a non-empty `isa` names.
// Errors: InvalidArgument when this CPU lacks it or none has that name.
absl::StatusOr<const KernelTable*> SelectKernels(std::string_view isa);

}  // namespace hostler
