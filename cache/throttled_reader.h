// A Reader no faster than a disk of a given bandwidth.
#pragma once

#include <memory>

#include "cache/reader.h"

namespace hostler {

// Reads through `reader`, one after another as far as its caller can tell: they
// end in the order they were started, each no sooner than `bytes_per_second`
// (above 0) allows after the one before. What `reader` reads meanwhile waits in
// memory. Errors are passed on.
std::unique_ptr<Reader> NewThrottledReader(std::unique_ptr<Reader> reader, double bytes_per_second);

}  // namespace hostler
