// Replaces the global operator new of a test binary by one that counts.
#pragma once

namespace hostler {

// Calls of operator new so far, by any thread.
int CountAllocations();

}  // namespace hostler
