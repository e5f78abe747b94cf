// Replaces the global operator new of a test binary by one that counts.
#pragma once

namespace hostler {

// Calls of operator new so far, by any thread; by the calling one.
int CountAllocations();
int CountOwnAllocations();

}  // namespace hostler
