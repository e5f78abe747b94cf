// The cores there are to compute with.
#pragma once

namespace hostler {

// That this process may use: its affinity, where the system tells.
int UsableCores();

}  // namespace hostler
