// NumPy's array files, format version 1.0.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"

namespace hostler {

// Writes [rows, cols] float32, little-endian, C order. REQUIRES: values.size()
// == rows * cols. Errors: Unavailable naming the file; a partial file is
// removed.
absl::Status WriteNpy(const std::string& path, int64_t rows, int64_t cols,
                      std::span<const float> values);

}  // namespace hostler
